"""Does a clause claim something that may be an answer: "The capital of Chad is Lagos", "C'est Lagos", "Lagos"?

`refusals.py` asks this of what surrounds an abstention, to tell "I'm not sure. It is Lagos." (an answer) from "I'm not
sure. It is a difficult question." (an abstention). A claim has a verb that asserts and something behind it, or is a
name or number alone. No claim are: statements of the speakers about themselves, offers of help, remarks about the
question, subordinate clauses, negations ("it is not Lagos"), and questions of several words.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from align.judges.answers.sentences import Sentence


class Claims(NamedTuple):
    """The patterns of one language, for clauses in the form of `plain_sentence`."""

    asserts: re.Pattern[str]
    """A verb that asserts: "is", "was", "named"."""
    offer: re.Pattern[str]
    """Help or advice, which is no answer: "I can help", "please consult an atlas"."""
    opens_aside: re.Pattern[str]
    """How a clause begins that claims nothing: "because", "which", "I", "the question"."""
    aside: re.Pattern[str]
    """Words with which a clause is a remark or a negation: "is not", "is difficult"."""


def claims_something(
    clause: Sentence, asked: str, languages: tuple[Claims, ...], *, may_continue: bool = False
) -> bool:
    """Whether a clause claims something that may be an answer.

    asked: the abstaining sentence, whose end names what is asked for. A claim about a part of it is no answer: after
        "I don't know the capital of Chad.", "Chad is a country in Africa." is none, and "It is Lagos." is one.
    languages: the patterns of the languages that the clause may be in.
    may_continue: the clause follows an object, so that a name after a comma belongs to it: in "I don't know the mayor
        of Washington, D.C.", "D.C." is no answer; in "I don't know, Lagos." and "I don't know it: Lagos.", "Lagos" is.
    """
    plain = _LEADING.sub("", clause.plain.strip(" .!?\"'*")).strip()
    if not plain:
        return False
    if any(one.opens_aside.match(plain) or one.offer.search(plain) or one.aside.search(plain) for one in languages):
        return False
    is_question = clause.plain.endswith("?")
    for one in languages:
        verb = one.asserts.search(plain)
        if verb is not None:
            # A verb at the end of a clause is that of a subordinate clause in German: "das ein Land in Afrika ist".
            behind = plain[verb.end() :].strip()
            return bool(behind) and not is_question and not _is_part_of(plain[: verb.start()], asked)
    return _is_name(clause.text) and not (may_continue and clause.text.startswith(","))


def asserts_or_offers(text: str, language: Claims) -> tuple[bool, bool]:
    """(whether the text asserts anything, whether it offers help), for what follows "but" and "however"."""
    return bool(language.asserts.search(text)), bool(language.offer.search(text))


def _is_name(text: str) -> bool:
    """Whether a clause without a verb is a name or a number: "Lagos", "26", "N'Djamena, Chad", but not "Sorry"."""
    words = re.findall(r"[^\W_][\w'’.-]*", text)
    if not 1 <= len(words) <= 4 or any(_COURTESY.fullmatch(word.casefold().strip(".")) for word in words):
        return False
    return any(word[0].isdigit() or (word[0].isupper() and len(word.strip(".")) > 1) for word in words)


def _is_part_of(subject: str, asked: str) -> bool:
    """Whether a claim's subject is what the question is about, and not what it asks for.

    Of "i do not know the capital of chad.", "chad" is such a part: it follows "of". "the capital of chad" is not, and
    "it" does not occur.
    """
    words = re.findall(r"\w+", re.sub(rf"^{_ARTICLE}\b", "", subject.strip()))
    if not words:
        return False
    phrase = r"\W+".join(map(re.escape, words))
    return re.search(rf"\b{_OF}\W+(?:{_ARTICLE}\W+)?{phrase}\b", asked) is not None


_ARTICLE = r"(?:an?|the|der|die|das|des|dem|den|eine?|le|la|les|l|une?|el|los|las|il|lo|gli|i|os?|as|uma?)"
# What a claim's subject follows in the abstaining sentence if it is only a part of what is asked for.
_OF = r"(?:of|about|des|der|von|über|vom|du|de|d|del|della|dello|dell|di|do|da|dos|das|sobre)"
# Words before a claim that change nothing: "So it is Lagos."
_LEADING = re.compile(r"^(?:(?:and|so|then|well|also|anyway|und|et|alors|y|entonces|e|quindi|então|pues) )+")
# Words of a clause without a verb that is no name, such as "Sorry" or "Good question".
_COURTESY = re.compile(
    r"google|ask|try|check|look|see|search|sorry|apolog(?:y|ies)|thanks?|please|regards|h+m+|well|oh|ah|ok(?:ay)?|honestly|unfortunately|really|"
    r"but|however|still|nevertheless|nonetheless|good|great|interesting|nice|question|help|i|me|my|you|your|unknown|unsure|uncertain|ai|assistant|model|"
    r"aber|jedoch|allerdings|trotzdem|dennoch|leider|entschuldigung|verzeihung|danke|bitte|leid|frage|ich|sie|hilfe|ki|ehrlich|"
    r"mais|cependant|toutefois|pourtant|néanmoins|désolée?|pardon|merci|je|vous|malheureusement|aide|ia|hélas|"
    r"pero|obstante|embargo|aunque|siento|perdón|gracias|favor|pregunta|yo|usted|ayuda|lamentablemente|"
    r"ma|però|tuttavia|comunque|dispiace|scus[ai]|grazie|domanda|favore|io|lei|aiuto|purtroppo|"
    r"mas|porém|contudo|entanto|entretanto|desculp[ae]|obrigad[oa]|pergunta|eu|você|ajuda|infelizmente"
)


def _claims(asserts: str, offer: str, opens_aside: str, aside: str) -> Claims:
    return Claims(
        asserts=re.compile(rf"\b(?:{asserts})"),
        offer=re.compile(rf"\b(?:{offer})"),
        opens_aside=re.compile(rf"(?:{opens_aside})(?!\w)"),
        aside=re.compile(rf"(?:{aside})(?!\w)"),
    )


# The German patterns see "ß" as "ss", since `plain_sentence` folds case.
CLAIMS = {
    "en": _claims(
        asserts=r"(?:is|was|are|were|has|equals|called|named|known as|it's|"
        r"(?:might|may|could|must) be(?! (?:able|available|found|best|better|helpful|wrong|outside|beyond)))\b",
        offer=r"(?:i can (?:help|assist|try|suggest|offer|give|provide|tell you (?:how|where))|"
        r"i (?:would|will) be (?:happy|glad)|"
        r"i am (?:happy|glad|here)|you (?:can|could|may|might|should|will|would)|"
        r"i (?:would )?(?:recommend|suggest|advise)|"
        r"please|feel free|let me know|if you|it is (?:best|better|always|possible|important|not|safer)|"
        r"(?:an?|any|the) (?:atlas|encyclopedia|reference|reliable|search))\b",
        opens_aside=r"i|we|(?:my|our)(?! answer)|your?|as|since|because|if|whether|unless|while|which|who|whom|whose|"
        r"what|where|that(?! (?:is|was))|when|why|how|sorry|there|here is why|nor|or|"
        r"(?:this|that|the|such|more|any|further|such an?) (?:\w+ )?"
        r"(?:question|topic|information|data|details?|request|matter)",
        aside=r"\b(?:is|was|are|were|has|have) (?:not|no|never)|"
        r"\b(?:is|was|are|were|seems|sounds) (?:(?:a|an|too|very|so|really|quite|just|simply|rather|fairly|also|"
        r"something|all|currently|still) )*"
        r"(?:difficult|hard|tricky|complex|complicated|unclear|unknown|obscure|specific|good|great|interesting|tough|"
        r"unfamiliar|outside|beyond|unavailable|impossible|uncertain|debatable|question)",
    ),
    "de": _claims(
        asserts=r"(?:ist|war|sind|heisst|lautet|hat|beträgt|liegt|nennt)\b",
        offer=r"(?:ich kann (?:ihnen|dir|gern\w*|helfen|versuchen)|gern\w*|sie (?:können|könnten|sollten)|"
        r"du (?:kannst|könntest|solltest)|bitte|(?:ich )?(?:empfehle|rate|schlage)|am besten|ein (?:atlas|lexikon))\b",
        opens_aside=r"ich|wir|(?:mein|unser)\w*(?! antwort)|sie|du|da|weil|denn|ob|wenn|dass|was|wer|welche\w*|wo|"
        r"wie|wann|warum|leider|oder|dazu|darüber|hier|"
        r"(?:die|diese|das|deine|ihre) (?:frage|thema|information\w*|angabe\w*)",
        aside=r"\b(?:ist|war|sind|hat|heisst|lautet|liegt) (?:nicht|kein\w*|nie)|"
        r"\b(?:ist|war|sind) (?:(?:mir|eine?|zu|sehr|wirklich|ziemlich|leider|auch|etwas) )*"
        r"(?:schwer|schwierig\w*|unklar|unbekannt|speziell|kompliziert\w*|gute|interessante|knifflig\w*|ausserhalb|"
        r"unsicher|frage)",
    ),
    "fr": _claims(
        asserts=r"(?:est|était|sont|a|s'appelle|se nomme|c'est)\b",
        offer=r"(?:je peux (?:vous|t'|essayer|aider|chercher)|vous (?:pouvez|pourriez|devriez)|tu (?:peux|pourrais)|"
        r"je (?:vous |te )?(?:recommande|conseille|suggère)|n'hésitez|veuillez|consultez|un (?:atlas|dictionnaire)|"
        r"une encyclopédie)",
        opens_aside=r"je|j'\w+|nous|mon|ma(?! réponse)|mes|vous|tu|car|parce|puisque|comme|qui|que|qu'\w+|dont|où|si|"
        r"quel\w*|ce qu\w+|désolée?|ou|il y a|(?:la|cette|votre|ta) (?:question|information)|ces informations|ce sujet",
        aside=r"\bn(?:e |')(?:est|était|sont|a|s'appelle)|"
        r"\b(?:est|était|sont) (?:(?:une?|trop|très|vraiment|assez|aussi|quelque chose de) )*"
        r"(?:difficile|compliqué\w*|inconnue?s?|incertaine?|spécifique|bonne|intéressante?|hors|au-delà|question)",
    ),
    "es": _claims(
        asserts=r"(?:es|era|son|está|se llama|tiene)\b",
        offer=r"(?:puedo (?:ayudar|intentar|buscar)|(?:usted )?(?:puede|podría|debería)|puedes|podrías|te recomiendo|"
        r"le recomiendo|recomiendo|sugiero|por favor|consult[ae]|un (?:atlas|diccionario)|una enciclopedia)",
        opens_aside=r"yo|nosotros|mis?(?! respuesta)|usted|tú|porque|ya que|puesto que|como|que|quien|cuál|cual|qué|"
        r"si|donde|dónde|cuando|lo siento|lamentablemente|o|hay|"
        r"(?:la|esta|esa|su|tu) (?:pregunta|información)|es[et]e? tema",
        aside=r"\bno (?:es|era|son|está|se llama|tiene)|"
        r"\b(?:es|era|son|está) (?:(?:una?|muy|demasiado|realmente|bastante|algo|también) )*"
        r"(?:difícil|complicad[oa]|desconocid[oa]|inciert[oa]|específic[oa]|buena|interesante|fuera|pregunta)",
    ),
    "it": _claims(
        asserts=r"(?:è|era|sono|si chiama|ha)(?!\w)",
        offer=r"(?:posso (?:aiutar|provare|cercare)|(?:può|puoi|potrebbe|potresti|dovrebbe) \w+|consiglio|suggerisco|"
        r"per favore|consult[ia]|un (?:atlante|dizionario)|un'enciclopedia)",
        opens_aside=r"io|noi|mi[oa](?! risposta)|miei|lei|tu|perché|poiché|dato che|siccome|come|che|chi|cui|quale|"
        r"qual|cosa|se|dove|quando|mi dispiace|purtroppo|o|c'è|ci sono|sono (?:solo |soltanto )?un[oa']?|"
        r"(?:la|questa|sua|tua) (?:domanda|informazione)|questo argomento",
        aside=r"\bnon (?:è|era|sono|si chiama|ha)|"
        r"\b(?:è|era|sono) (?:(?:una?|molto|troppo|davvero|piuttosto|qualcosa di|anche) )*"
        r"(?:difficile|complicat[oa]|sconosciut[oa]|incert[oa]|specific[oa]|buona|bella|interessante|fuori|domanda)",
    ),
    "pt": _claims(
        asserts=r"(?:é|era|são|fica|chama-se|se chama|tem)(?!\w)",
        offer=r"(?:posso (?:ajudar|tentar|procurar)|(?:você )?(?:pode|poderia|deveria)|recomendo|sugiro|por favor|"
        r"consulte|um (?:atlas|dicionário)|uma enciclopédia)",
        opens_aside=r"eu|nós|meus?|minhas?(?! resposta)|você|tu|porque|pois|já que|como|que|quem|qual|se|onde|quando|"
        r"desculpe|infelizmente|ou|há|(?:a|essa|esta|sua|tua) (?:pergunta|informação)|esse assunto|este assunto",
        aside=r"\bnão (?:é|era|são|fica|se chama|tem)|"
        r"\b(?:é|era|são) (?:(?:uma?|muito|demasiado|realmente|bastante|algo|também) )*"
        r"(?:difícil|complicad[oa]|desconhecid[oa]|incert[oa]|específic[oa]|boa|interessante|fora|pergunta)",
    ),
}
"""Language -> its patterns."""
