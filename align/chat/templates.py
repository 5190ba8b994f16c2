r"""The protocols as Jinja, saved with checkpoints so that other programs write the same dialogs.

Tests hold them equal to `encode`. Functions and calls may arrive as OpenAI nests them or bare; arguments arrive as an
object, which is what servers hand to templates (text is put in as it is). Every tag trims the space around it, and `\n`
is Jinja's escape.
"""

CHATML = r"""
{%- macro offer() -%}
    {{- 'You may call functions. Their signatures are within <tools></tools>:\n<tools>\n' -}}
    {%- for tool in tools -%}
        {%- set tool = tool.function if tool.function is defined else tool -%}
        {%- set parameters = tool.parameters if tool.parameters is defined and tool.parameters is not none
            else {'type': 'object', 'properties': {}} -%}
        {{- {'name': tool.name, 'description': tool.description or '', 'parameters': parameters} | tojson -}}
        {{- '' if loop.last else '\n' -}}
    {%- endfor -%}
    {{- '\n</tools>\nTo call one, write a JSON object with its name and arguments within <tool_call></tool_call>:\n' -}}
    {{- '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>' -}}
{%- endmacro -%}
{%- if tools and not (messages and messages[0].role == 'system') -%}
    {{- '<|im_start|>system\n' + offer() + '<|im_end|>\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {{- ('' if loop.first else '\n') + '<|im_start|>' + message.role + '\n' -}}
    {{- message.content or '' -}}
    {%- if loop.first and tools and message.role == 'system' -%}
        {{- ('\n\n' if message.content else '') + offer() -}}
    {%- endif -%}
    {%- for call in message.tool_calls or [] -%}
        {%- set call = call.function if call.function is defined else call -%}
        {{- '' if loop.first and not message.content else '\n' -}}
        {{- '<tool_call>\n{"name": ' + call.name | tojson + ', "arguments": ' -}}
        {{- call.arguments if call.arguments is string else call.arguments | tojson -}}
        {{- '}\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|im_end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- ('\n' if messages or tools else '') + '<|im_start|>assistant\n' -}}
{%- endif -%}
""".strip()

LLAMA3 = r"""
{%- set ns = namespace(tools=tools, built_in=false) -%}
{%- if messages and messages[0].role == 'system' and messages[0].content -%}
    {%- set ns.built_in = 'Environment: ipython' in messages[0].content.split('\n') | map('trim') | list -%}
{%- endif -%}
{%- if tools and not messages | selectattr('role', 'equalto', 'user') | list -%}
    {{- raise_exception('Functions are offered in the first user message, and there is none.') -}}
{%- endif -%}
{{- '<|begin_of_text|>' -}}
{%- for message in messages -%}
    {{- '<|start_header_id|>' + ('ipython' if message.role == 'tool' else message.role) + '<|end_header_id|>\n\n' -}}
    {%- if ns.tools and message.role == 'user' -%}
        {{- 'Given the following functions, please respond with a JSON for a function call with its proper ' -}}
        {{- 'arguments that best answers the given prompt.\n\nRespond in the format {"name": function name, ' -}}
        {{- '"parameters": dictionary of argument name and its value}.Do not use variables.\n\n' -}}
        {%- for tool in ns.tools -%}
            {%- set tool = tool.function if tool.function is defined else tool -%}
            {%- set parameters = tool.parameters if tool.parameters is defined and tool.parameters is not none
                else {'type': 'object', 'properties': {}} -%}
            {{- {'type': 'function', 'function': {'name': tool.name, 'description': tool.description or '',
                'parameters': parameters}} | tojson(indent=4) -}}
            {{- '\n\n' -}}
        {%- endfor -%}
        {%- set ns.tools = none -%}
    {%- endif -%}
    {{- message.content or '' -}}
    {%- if message.tool_calls -%}
        {%- if message.tool_calls | length > 1 -%}
            {{- raise_exception('Llama 3.1 makes one call a message.') -}}
        {%- endif -%}
        {%- set call = message.tool_calls[0] -%}
        {%- set call = call.function if call.function is defined else call -%}
        {%- set given = call.arguments if call.arguments is mapping else {} -%}
        {%- set keys = given.keys() | list -%}
        {%- if ns.built_in and call.name in ['brave_search', 'wolfram_alpha'] and keys == ['query']
            and given['query'] is string -%}
            {{- '<|python_tag|>' + call.name + '.call(query="' + given['query'] + '")<|eom_id|>' -}}
        {%- elif ns.built_in and call.name == 'code_interpreter' and keys == ['code'] and given['code'] is string -%}
            {{- '<|python_tag|>' + given['code'] + '<|eom_id|>' -}}
        {%- else -%}
            {{- ('\n' if message.content else '') + '{"name": ' + call.name | tojson + ', "parameters": ' -}}
            {{- call.arguments if call.arguments is string else call.arguments | tojson -}}
            {{- '}<|eot_id|>' -}}
        {%- endif -%}
    {%- else -%}
        {{- '<|eot_id|>' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
{%- endif -%}
""".strip()
