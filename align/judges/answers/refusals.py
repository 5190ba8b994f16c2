"""Does a text abstain ("I don't know"), in English, German, French, Spanish, Italian or Portuguese?

A text abstains if one of its sentences says that the speaker cannot answer, and no answer follows:

    "I don't know."                                    abstains
    "I'm not sure, but I think it is Paris."           answers: a guess follows ("I think")
    "I don't know the year, but the city is Paris."    answers: a turn ("but") and an assertion ("is") follow
    "I don't know, but I can help you find it."        abstains: what follows the turn is an offer of help
    "It is not Paris."                                 answers: a negation alone does not abstain

The rules are regular expressions over single sentences, after `_plain_sentence`: lower case, plain apostrophes, single
spaces, and English contractions written out ("don't" as "do not"), so that a pattern needs one form of each phrase.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple


class Abstention(NamedTuple):
    """The sentence of a text that abstains."""

    start: int
    """Where the sentence begins in the text."""
    language: str
    """The language of the pattern that matched; empty for a text without any words."""


class _Language(NamedTuple):
    """The patterns of one language. `abstains` finds abstaining sentences; the others look at what follows them."""

    abstains: re.Pattern[str]
    """"I do not know", "I have no information"."""
    tries: re.Pattern[str]
    """A guess: "I think", "probably"."""
    turn: re.Pattern[str]
    """"but", "however"."""
    asserts: re.Pattern[str]
    """After a turn: "is", "was", "named"."""
    offer: re.Pattern[str]
    """After a turn, help or advice, which is no answer: "I can help", "please consult an atlas"."""


def abstention(text: str) -> Abstention | None:
    """The first sentence that abstains.

    None if no sentence abstains, or if an answer follows the abstention. Empty text counts as abstaining.
    """
    if not text.strip():
        return Abstention(0, "")
    # Sentences end at . ! ? or a line break: "Well... I don't know." has the sentences "Well..." and " I don't know."
    sentences = [(found.start(), _plain_sentence(found.group())) for found in re.finditer(r"[^.!?\n]+[.!?\n]*", text)]
    for number, (start, sentence) in enumerate(sentences):
        for name, language in _LANGUAGES.items():
            found = language.abstains.search(sentence)
            if found is not None:
                rest = " ".join([sentence[found.end() :], *(later for _, later in sentences[number + 1 :])])
                return None if _answers(rest, language) else Abstention(start, name)
    return None


def apologizes(text: str) -> bool:
    """Whether the text opens with an apology or regret: "I'm sorry, but", "Leider", "Je suis désolé"."""
    return _APOLOGY.match(_plain_sentence(text)) is not None


def _answers(rest: str, language: _Language) -> bool:
    """Whether an answer follows an abstention: a guess, or a turn and an assertion that is no offer of help.

    rest: the text behind the abstaining words. If it abstains again, only the text behind its last abstention counts:
        of "but it is old. I can not say who it is." this is "who it is.", which has no guess and no turn.
    """
    further = [found.end() for found in language.abstains.finditer(rest)]
    rest = rest[further[-1] :] if further else rest
    if language.tries.search(rest):
        return True
    turn = language.turn.search(rest)
    if turn is None:
        return False
    tail = rest[turn.end() :]
    return bool(language.asserts.search(tail)) and not language.offer.search(tail)


def _plain_sentence(sentence: str) -> str:
    """Lower case, one kind of apostrophe, contractions written out: "I CAN’T  say" becomes "i can not say"."""
    sentence = unicodedata.normalize("NFC", sentence).casefold().translate({ord(mark): "'" for mark in "’‘ʼ`´"})
    for pattern, replacement in _CONTRACTIONS:
        sentence = pattern.sub(replacement, sentence)
    return re.sub(r"\s+", " ", sentence).strip()


_CONTRACTIONS = (
    (re.compile(r"\bcan't\b"), "can not"),
    (re.compile(r"\bcannot\b"), "can not"),
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"\bdunno\b"), "do not know"),
    (re.compile(r"\bain't\b"), "am not"),
    (re.compile(r"n't\b"), " not"),
    (re.compile(r"\b(i)'m\b"), r"\1 am"),
    (re.compile(r"\b(we|they|you)'re\b"), r"\1 are"),
    (re.compile(r"\b(it|that|there)'s\b"), r"\1 is"),
    (re.compile(r"\b(i|we|you)'d\b"), r"\1 would"),
    (re.compile(r"\b(i|we|you)'ll\b"), r"\1 will"),
    (re.compile(r"\b(i|we|you)'ve\b"), r"\1 have"),
)

_APOLOGY = re.compile(
    r"\W*(?:oh,? |hm+,? |well,? )?(?:"
    r"(?:i am |we are )?(?:very |so |really |truly |terribly )*(?:sorry|afraid)\b|unfortunately\b|regrettably\b|"
    r"(?:my |please accept my )?apologies\b|i (?:do )?(?:apologi[sz]e|regret)\b|(?:please )?(?:excuse|forgive) me\b|"
    r"(?:es )?tut mir (?:sehr |wirklich )?leid\b|leider\b|bedauerlicherweise\b|entschuldig|verzeih|ich bedaue?re\b|"
    r"(?:je suis |nous sommes )?(?:vraiment )?désolé|malheureusement\b|pardon\b|excuse[rz]?\b|hélas\b|je regrette\b|"
    r"lo siento\b|lo lament|lamentablemente\b|desafortunadamente\b|desgraciadamente\b|por desgracia\b|perd[óo]n|"
    r"disculp|me temo\b|mi dispiace\b|purtroppo\b|sfortunatamente\b|scus[ai]|chiedo scusa\b|temo\b|"
    r"desculp|sinto muito\b|lamento\b|infelizmente\b|perdoe"
    r")"
)

# English, with contractions written out. A pattern is made of parts, here for "i really do not have any reliable data":
#   i + _VERY ("really ") + do not + _VERY ("") + have + _VERY ("") + _KNOWLEDGE ("any reliable data")
_VERY = (
    r"(?:(?:really|actually|honestly|currently|personally|yet|quite|entirely|completely|totally|fully|exactly|very|too|"
    r"100%|so|simply|just|unfortunately|truly|absolutely|at all) )*"
)
_TELL = (
    r"(?:answer|say|tell|provide|give|offer|determine|recall|remember|find|confirm|verify|help|assist|access|identify|"
    r"state|share|name|be (?:sure|certain)|fulfill|complete|comment|speak|guess|supply|locate|respond|know|browse)\b"
)
_KNOWLEDGE = (
    r"(?:(?:the|any|an|a|this|that|enough|sufficient|specific|reliable|accurate|personal|real-time|direct|up-to-date|"
    r"current|detailed|such|good|definite|certain|clear|verified|trustworthy) )*"
    r"(?:access|information|info|data|knowledge|answers?|idea|details?|facts?|records?|context|memory|clue|way|"
    r"capability|ability|it|that)\b"
)
_ENGLISH = (
    rf"\b(?:i|we) {_VERY}(?:do|did) not {_VERY}(?:know|recall|remember|have {_VERY}{_KNOWLEDGE})",
    rf"\b(?:i|we) {_VERY}(?:am|are|was|were) {_VERY}not {_VERY}"
    r"(?:sure|certain|aware|familiar|able|confident|positive)\b",
    rf"\b(?:i|we) {_VERY}(?:am|are|was|were) {_VERY}(?:unsure|uncertain|unable|unaware|unfamiliar)\b",
    rf"\b(?:i|we) {_VERY}(?:can|could) not {_VERY}{_TELL}",
    rf"\b(?:i|we) (?:would|will) not {_VERY}(?:be able to|know|guess|want to|wish to)\b",
    rf"\b(?:i|we) (?:would|will) {_VERY}(?:rather|prefer) (?:not|to not)\b",
    r"\b(?:i|we) do not (?:want|wish) to (?:guess|say|mislead|make)\b",
    rf"\b(?:i|we) {_VERY}(?:have|have got|had) {_VERY}no {_KNOWLEDGE}",
    rf"\b(?:i|we) {_VERY}lack {_KNOWLEDGE}",
    r"\bi (?:would|might) (?:only |just )?be (?:only |just )?guessing\b",
    r"\bnot (?:something|a fact|anything|one) (?:that )?i (?:know|can|am)\b",
    r"\b(?:something|one) (?:that )?i do not know\b",
    r"\b(?:beyond|outside|not (?:part of|in|within)) (?:of )?(?:what i know|my (?:current )?"
    r"(?:knowledge|expertise|training|understanding|capabilities))\b",
    r"\bmy (?:knowledge|training(?: data)?|information) (?:is|does|do|are) (?:not|limited|too)\b",
    r"\b(?:no|not enough|insufficient) (?:reliable |specific |sufficient |further )?information "
    r"(?:is |was )?(?:available|provided|given|about|on|to|in)\b",
    r"\b(?:can|could) not be (?:determined|answered|known|verified)\b",
    r"\b(?:is|are) (?:unknown|not known) to me\b",
    rf"\b(?:impossible|not possible) (?:for me )?to {_TELL}",
    r"(?:^|, )(?:sorry,? )?(?:(?:but )?(?:do|did) not know|"
    rf"not {_VERY}(?:sure|certain)|no (?:idea|clue)|unknown|unsure|uncertain|"
    rf"can not {_TELL}|unable to {_TELL})\b",
)

# The other languages. Up to six words may come between the parts of a phrase, but no comma, semicolon or colon, which
# begins another clause: "non ho purtroppo informazioni" matches, "non ho fame, e le informazioni" does not.
_GAP = r"(?:[^\s,;:]+ ){0,6}?"
_GERMAN = (
    r"\b(?:ich|wir) (?:weiss|wissen|wusste|kenne|kennen)\b[^,;:]{0,100}?\b(?:nicht|nichts)\b(?! nur)",
    r"\b(?:weiss|wissen|kenne|kennen) (?:ich|wir)\b[^,;:]{0,100}?\b(?:nicht|nichts)\b(?! nur)",
    r"\bmir\b[^,;:]{0,100}?\b(?:nicht (?:bekannt|geläufig)|unbekannt)\b",
    r"\b(?:ich bin|bin ich|wir sind|sind wir)\b[^,;:]{0,100}?"
    r"\b(?:nicht (?:ganz |völlig |wirklich )?(?:sicher|in der lage)|unsicher)\b",
    rf"\b(?:ich|wir) (?:habe|haben|hatte|besitze) {_GAP}kein\w* {_GAP}"
    r"(?:information\w*|angabe\w*|daten|ahnung|kenntnis\w*|wissen|antwort|zugriff|idee)\b",
    rf"\b(?:habe|haben) (?:ich|wir) {_GAP}kein\w* {_GAP}"
    r"(?:information\w*|angabe\w*|daten|ahnung|kenntnis\w*|wissen|antwort|zugriff|idee)\b",
    r"\b(?:kann|können|konnte)\b[^;:]{0,100}?\bnicht (?:mit \w+ )?"
    r"(?:beantwort\w+|sagen|angeben|nennen|bestimmen|helfen|erinnern|geben)\b",
    r"\b(?:möchte|will|werde)\b[^,;:]{0,100}?\bnicht raten\b",
    r"\b(?:übersteigt|ausserhalb)\b[^,;:]{0,100}?\bmein\w* (?:wissen\w*|kenntniss\w*)\b",
    r"\bentzieht sich meiner kenntnis\b",
    r"(?:^|, )(?:keine ahnung|unbekannt|nicht sicher|weiss (?:ich )?nicht|(?:das )?weiss ich nicht)\b",
)
_FRENCH = (
    r"\b(?:je|nous) ne (?:le |la |les |l'|en |me )?"
    r"(?:sais|savons|connais|connaissons|dispose|disposons|souviens|possède)\b(?: [^\s,;:]+){0,2}? (?:pas|rien)\b",
    r"\bje (?:le |la )?(?:sais|connais) pas\b|\bje ne saurais\b",
    r"\b(?:je|nous) (?:ne |n'en )(?:suis|sommes) (?:\w+ )?pas (?:\w+ )?"
    r"(?:sûre?s?|certaine?s?|en mesure|capables?|au courant)\b",
    r"\b(?:je|nous) ne (?:le |la |vous |te |t'|m'en )?(?:peux|puis|pouvons) (?:\w+ )?pas (?:[^\s,;:]+ ){0,2}?"
    r"(?:répondre|dire|nommer|donner|fournir|confirmer|aider|déterminer|indiquer)\b",
    rf"\b(?:je|nous) n'(?:ai|avons) (?:\w+ )?(?:pas|aucune?) {_GAP}(?:d')?"
    r"(?:informations?|idée|réponse|connaissances?|données?|accès|certitude|renseignements?)\b",
    r"\bj'(?:ignore|en ignore)\b|\bje l'ignore\b",
    r"\bje préfère ne pas\b",
    r"\bm'(?:est|es) (?:totalement |complètement )?inconnue?s?\b",
    r"(?:^|, )(?:aucune idée|inconnue?|pas (?:sûre?|certaine?)|sais pas|incertaine?)\b",
)
_SPANISH = (
    r"\bno (?:lo |la |le |te |me |se lo )?"
    r"(?:sé|sabemos|sabría|conozco|conocemos|recuerdo|dispongo|consta|acuerdo)\b",
    rf"\bno (?:tengo|tenemos|poseo|cuento con) {_GAP}"
    r"(?:información|datos|idea|respuesta|conocimientos?|certeza|constancia|acceso|seguridad)\b",
    r"\bno (?:estoy|estamos) (?:\w+ )?(?:segur[oa]s?|ciert[oa]s?|capacitad[oa])\b",
    r"\bno (?:lo |la |le |te |se lo )?(?:puedo|podemos|podría|soy capaz de) (?:\w+ ){0,2}?"
    r"(?:decir\w*|responder\w*|contestar\w*|asegurar\w*|confirmar\w*|dar\w*|proporcionar\w*|ayudar\w*|determinar\w*|"
    r"indicar\w*|saber\w*)\b",
    r"\b(?:lo )?(?:desconozco|desconocemos|ignoro)\b",
    r"\bprefiero no\b",
    r"\bme (?:es|resulta) desconocid[oa]\b",
    r"(?:^|, )(?:ni idea|desconocid[oa]|no sé|no estoy segur[oa])\b",
)
_ITALIAN = (
    r"\bnon (?:lo |la |le |ne |ti |me lo |mi )?"
    r"(?:so|sappiamo|saprei|conosco|conosciamo|ricordo|dispongo|risulta)\b(?! solo)",
    rf"\bnon (?:ho|abbiamo|possiedo) {_GAP}"
    r"(?:informazioni|dati|idea|risposta|conoscenze?|certezz[ae]|accesso|notizie)\b",
    r"\bnon (?:ne )?(?:sono|siamo) (?:\w+ )?(?:sicur[oaie]|cert[oaie]|in grado|a conoscenza)\b",
    r"\bnon (?:ti |le |lo |la )?(?:posso|possiamo|potrei|riesco a) (?:\w+ ){0,2}?"
    r"(?:dir\w*|rispondere|fornir\w*|confermar\w*|aiutar\w*|indicar\w*|dare|darti|darle|stabilire)\b",
    r"\b(?:lo |la )?ignoro\b",
    r"\bpreferisco non\b|\bpreferirei non\b",
    r"\b(?:mi è|m'è) (?:\w+ )?(?:sconosciut[oa]|ignot[oa])\b|\bnon mi è (?:not[oa]|conosciut[oa])\b",
    r"(?:^|, )(?:nessuna idea|sconosciut[oa]|ignot[oa]|boh)\b",
)
_PORTUGUESE = (
    r"\bnão (?:o |a |lhe |te |me |se )?(?:sei|sabemos|saberia|conheço|conhecemos|lembro|recordo|disponho)\b",
    rf"\bnão (?:tenho|temos|possuo) {_GAP}"
    r"(?:informaç(?:ão|ões)|dados|ideia|resposta|conhecimento|certeza|acesso|segurança)\b",
    r"\bnão (?:estou|estamos) (?:\w+ )?(?:cert[oa]s?|segur[oa]s?|ciente|a par)\b",
    r"\bnão (?:o |a |lhe |te |me )?(?:posso|podemos|consigo|poderia|sou capaz de) (?:\w+ ){0,2}?"
    r"(?:dizer|responder|afirmar|confirmar|dar|fornecer|ajudar|informar|determinar|lembrar|recordar)\b",
    r"\b(?:desconheço|desconhecemos|ignoro)\b",
    r"\bnão faço (?:a menor |a mínima )?ideia\b",
    r"\bprefiro não\b",
    r"\bme é desconhecid[oa]\b|\bé(?:-me)? desconhecid[oa] para mim\b",
    r"(?:^|, )(?:sem ideia|desconhecid[oa]|não sei|não tenho certeza)\b",
)


def _language(abstains: tuple[str, ...], tries: str, turn: str, asserts: str, offer: str) -> _Language:
    words = (rf"\b(?:{pattern})" for pattern in (tries, turn, asserts, offer))
    return _Language(re.compile("|".join(abstains)), *map(re.compile, words))


_LANGUAGES = {
    "en": _language(
        _ENGLISH,
        tries=r"i (?:do )?(?:think|believe|suspect)|i would (?:say|guess)|my (?:best )?guess|best guess|"
        r"if i (?:had|have) to guess|(?:it|that) (?:is|was) (?:probably|likely|possibly|perhaps)|"
        r"it (?:might|may|could|must|should) be|(?:probably|perhaps|maybe|possibly|likely)\b",
        turn=r"(?:but|however|although|though|still|nevertheless|nonetheless|that said|yet)\b",
        asserts=r"(?:is|was|are|were|has|equals|called|named|known as|it's)\b",
        offer=r"(?:i can (?:help|assist|try|suggest|offer|give|provide|tell you (?:how|where))|"
        r"i (?:would|will) be (?:happy|glad)|"
        r"i am (?:happy|glad|here)|you (?:can|could|may|might|should|will|would)|"
        r"i (?:would )?(?:recommend|suggest|advise)|"
        r"please|feel free|let me know|if you|it is (?:best|better|always|possible|important|not|safer)|"
        r"(?:an?|any|the) (?:atlas|encyclopedia|reference|reliable|search))\b",
    ),
    "de": _language(
        _GERMAN,
        tries=r"(?:ich (?:glaube|denke|vermute|schätze|meine|tippe|nehme an|würde (?:sagen|schätzen|tippen|vermuten))|"
        r"(?:glaube|denke|vermute|schätze|würde) ich|vermutlich|wahrscheinlich|vielleicht|möglicherweise|"
        r"(?:könnte|dürfte|müsste)\b)",
        turn=r"(?:aber|jedoch|allerdings|trotzdem|dennoch)\b",
        asserts=r"(?:ist|war|sind|heisst|lautet|hat|beträgt|liegt|nennt)\b",
        offer=r"(?:ich kann (?:ihnen|dir|gern\w*|helfen|versuchen)|gern\w*|sie (?:können|könnten|sollten)|"
        r"du (?:kannst|könntest|solltest)|bitte|(?:ich )?(?:empfehle|rate|schlage)|am besten|ein (?:atlas|lexikon))\b",
    ),
    "fr": _language(
        _FRENCH,
        tries=r"(?:je (?:crois|pense|suppose|dirais|devine|parierais)|peut-être|probablement|sans doute|"
        r"(?:c'est|ce serait) peut-être|il s'agit (?:peut-être|probablement)|"
        r"(?:pourrait|devrait|doit) être)\b",
        turn=r"(?:mais|cependant|toutefois|pourtant|néanmoins)\b",
        asserts=r"(?:est|était|sont|a|s'appelle|se nomme|c'est)\b",
        offer=r"(?:je peux (?:vous|t'|essayer|aider|chercher)|vous (?:pouvez|pourriez|devriez)|tu (?:peux|pourrais)|"
        r"je (?:vous |te )?(?:recommande|conseille|suggère)|n'hésitez|veuillez|consultez|un (?:atlas|dictionnaire)|"
        r"une encyclopédie)",
    ),
    "es": _language(
        _SPANISH,
        tries=r"(?:creo|pienso|supongo|diría|imagino|sospecho|quizás?|tal vez|probablemente|posiblemente|"
        r"(?:podría|debe|puede) (?:ser|de ser))\b",
        turn=r"(?:pero|sin embargo|no obstante|aunque)\b",
        asserts=r"(?:es|era|son|está|se llama|tiene)\b",
        offer=r"(?:puedo (?:ayudar|intentar|buscar)|(?:usted )?(?:puede|podría|debería)|puedes|podrías|te recomiendo|"
        r"le recomiendo|recomiendo|sugiero|por favor|consult[ae]|un (?:atlas|diccionario)|una enciclopedia)",
    ),
    "it": _language(
        _ITALIAN,
        tries=r"(?:credo|penso|suppongo|direi|immagino|forse|probabilmente|(?:potrebbe|dovrebbe|può) essere)\b",
        turn=r"(?:ma|però|tuttavia|comunque|sebbene)\b",
        asserts=r"(?:è|era|sono|si chiama|ha)(?!\w)",
        offer=r"(?:posso (?:aiutar|provare|cercare)|(?:può|puoi|potrebbe|potresti|dovrebbe) \w+|consiglio|suggerisco|"
        r"per favore|consult[ia]|un (?:atlante|dizionario)|un'enciclopedia)",
    ),
    "pt": _language(
        _PORTUGUESE,
        tries=r"(?:acho|acredito|penso|creio|suponho|diria|imagino|talvez|provavelmente|possivelmente|"
        r"(?:poderia|deve|pode) ser)\b",
        turn=r"(?:mas|porém|contudo|no entanto|entretanto|embora)\b",
        asserts=r"(?:é|era|são|fica|chama-se|se chama|tem)(?!\w)",
        offer=r"(?:posso (?:ajudar|tentar|procurar)|(?:você )?(?:pode|poderia|deveria)|recomendo|sugiro|por favor|"
        r"consulte|um (?:atlas|dicionário)|uma enciclopédia)",
    ),
}
LANGUAGES = tuple(_LANGUAGES)
"""ISO 639 codes of the languages that are understood."""
