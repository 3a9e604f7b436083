"""What secrets look like: rules that find them and keep what is around them.

A text is looked at closely only where a hint (``sk-``, ``password``, ``://`` ...) occurs in it, and every pattern
takes time linear in the text: its repetitions are bounded, possessive, or start where no attempt began before.
"""

from __future__ import annotations

import re
from typing import NamedTuple

REDACTED = "[redacted]"
"""What stands in a secret's place."""


class Rule(NamedTuple):
    """Say how to find one kind of secrets, and what to put in their place."""

    hints: tuple[str, ...]
    """The pattern can match only where one of these occurs in the lower-cased text."""
    pattern: re.Pattern[str]
    replacement: str


def _rule(hints: str, pattern: str, flags: re.RegexFlag = re.IGNORECASE) -> Rule:
    """Make a rule of hints, one or more words, and a pattern whose match is replaced but for its named groups."""
    compiled = re.compile(pattern, flags | re.ASCII)
    kept = "".join(rf"\g<{group}>" for group in compiled.groupindex)
    return Rule(tuple(hints.lower().split()), compiled, kept + REDACTED)


_DIGIT = r"(?=[A-Za-z_-]{0,64}[0-9])"  # it comes soon: what is joined of words has none
_HEX = "[0-9a-f]"
_END = "(?![A-Za-z0-9])"

# Prefixes that vendors give their keys so that they are found, and what follows them.
_VENDOR_KEYS = {
    # Language models, and what agents use beside them.
    "sk- csk- pk-lf-": r"(?=[a-z_-]{0,24}[0-9A-Z])[\w-]{16,}",  # OpenAI, Anthropic, OpenRouter, Cerebras, Langfuse ...
    "lsv2_pt_ lsv2_sk_": r"\w{20,}",  # LangSmith
    "ls__": rf"{_HEX}{{32}}{_END}",
    "AIza": r"[\w-]{35}",  # Google
    "AQ.Ab": r"[\w-]{40,}",
    "ya29. GOCSPX- 1//0": r"[\w.-]{19,}\w",  # Google OAuth
    "hf_ api_org_ gsk_ r8_ fw_ rpa_ tgp_v1_": r"[A-Za-z0-9]{20,}",  # Hugging Face, Groq, Replicate, Fireworks, Together
    "xai- pplx- nvapi- tvly-": rf"{_DIGIT}[\w-]{{20,}}",  # xAI, Perplexity, NVIDIA, Tavily
    "pcsk_ wandb_v1_ apify_api_ vck_": rf"{_DIGIT}\w{{20,}}",  # Pinecone, Weights & Biases, Apify, Vercel
    "pa-": r"(?<![\w-]pa-)(?=[a-z0-9_-]{0,40}[A-Z])[\w-]{40,}",  # Voyage
    "jina_": rf"{_HEX}{{32}}\w{{20,}}",
    "llx-": rf"{_DIGIT}[A-Za-z0-9]{{40,}}",  # LlamaIndex
    "fc-": rf"(?<![\w-]fc-){_HEX}{{32}}{_END}",  # Firecrawl
    "BSA": rf"{_DIGIT}[\w-]{{25,32}}(?![\w-])",  # Brave
    "e2b_ sbp_": rf"{_HEX}{{40}}",  # E2B, Supabase
    "sb_secret_": rf"{_DIGIT}[\w-]{{20,}}",
    "AstraCS:": r"[\w:-]{20,}",  # DataStax
    "sk_": rf"{_HEX}{{32,}}{_END}",  # ElevenLabs
    # Clouds and databases.
    "AKIA ASIA ABIA ACCA": rf"[A-Z0-9]{{16}}{_END}",  # AWS
    "ABSK IQoJb3JpZ2luX2Vj FwoGZXIvYXdz bedrock-api-key-": r"[\w+/=.-]{40,}",
    "LTAI": rf"[A-Za-z0-9]{{16,22}}{_END}",  # Alibaba
    "dop_v1_ doo_v1_ dor_v1_": rf"{_HEX}{{64}}",  # DigitalOcean
    "dapi": rf"{_HEX}{{32}}(?:-\d)?",  # Databricks
    "sha256~": r"[\w-]{43}",  # OpenShift
    "hvs. hvb. hvr.": r"[\w-]{20,}",  # HashiCorp Vault
    "dp.pt. dp.st. dp.ct. dp.sa.": r"[\w.-]{39,}\w",  # Doppler
    "tskey-": rf"{_DIGIT}[\w-]{{20,}}",  # Tailscale
    "pscale_tkn_ pscale_pw_ pscale_oauth_": r"[\w.=-]{32,}",  # PlanetScale
    "AGE-SECRET-KEY-1": r"[0-9A-Z]{58}",
    "LS0tLS1CRUdJTi": r"(?!BDRVJUSUZJQ0FUR|BQVUJMSUM)[A-Za-z0-9+/=]{20,}",  # PEM in base64, but what is public
    # Code, packages and operations.
    "ghp_ gho_ ghu_ ghs_ ghr_": r"[A-Za-z0-9][\w.-]{28,}\w",  # GitHub
    "github_pat_": r"\w{22,}",
    "glpat- gldt- glrt- glcbt- glptt- glsoat- glimt- glagent- gloas- glft- glffct-": r"[\w.-]{19,}\w",  # GitLab
    "npm_ rubygems_ pnu_ lin_api_ napi_": r"[A-Za-z0-9]{30,}",  # npm, RubyGems, Prefect, Linear, Neon
    "pypi- AKCp pul-": rf"{_DIGIT}[\w-]{{32,}}",  # PyPI, Artifactory, Pulumi
    "dckr_pat_ dckr_oat_ ntn_ figd_": rf"{_DIGIT}[\w-]{{20,}}",  # Docker, Notion, Figma
    "glsa_ glc_ sntrys_ sntryu_": rf"{_DIGIT}[\w+/=-]{{20,}}",  # Grafana, Sentry
    "ATATT3 ATCTT3 ATBB": rf"{_DIGIT}[\w=-]{{20,}}",  # Atlassian
    "PMAK-": rf"{_HEX}{{24}}-{_HEX}{{34}}",  # Postman
    "NRAK- NRII- NRJS-": rf"{_DIGIT}[\w-]{{20,}}",  # New Relic
    # Messages, shops and payments.
    "xoxa- xoxb- xoxc- xoxe- xoxo- xoxp- xoxr- xoxs- xoxe.xoxp- xoxe.xoxb- xapp-": r"\d[\w-]{9,}",  # Slack
    "xoxd-": r"[\w%+/=-]{20,}",
    "SK": rf"{_HEX}{{32}}{_END}",  # Twilio
    "key-": rf"(?<![\w-]key-){_HEX}{{32}}{_END}",  # Mailgun
    "SG.": r"[\w-]{16,}\.[\w-]{16,}",  # SendGrid
    "xkeysib- xsmtpsib-": rf"{_HEX}{{64}}-\w{{16}}",  # Brevo
    "pat-na1- pat-eu1-": rf"{_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}}",  # HubSpot
    "sk_live_ sk_test_ sk_prod_ rk_live_ rk_test_ rk_prod_ whsec_": r"[\w+/=]{16,}",  # Stripe
    "sq0atp- sq0csp- EAAA": rf"{_DIGIT}[\w-]{{22,}}",  # Square
    "shpat_ shpss_ shpca_ shppa_": rf"{_HEX}{{32}}",  # Shopify
}

# Names whose value is a secret, as the end of a longer name (OPENAI_API_KEY, dbPassword). `PWD=/home/me` is a
# directory, and `pass` alone counts tests.
_SURE_NAME = (
    r"(?:passw(?:or)?d|passphrase|passcode|(?<=[_?&;-])pass|pwd(?!=[/~])|secret|credentials?"
    r"|(?:api|access|secret|private|account|auth|master|signing|encryption|subscription|x-functions|service[ _-]role"
    r"|openai|anthropic|azure(?:[ _-]storage)?|cohere|gemini|google|groq|mistral|together|xai|deepseek|openrouter"
    r"|perplexity|replicate|pinecone|tavily|serpapi|langsmith|langfuse|hugging[ _-]?face)[ _-]?key"
    r"|client[ _-]key[ _-]data)"
)
# Names that also come before plain words (`Unexpected token: foo`, `"token": "Hello"`): the value has to look random.
_VAGUE_NAME = r"(?:token|jwt|signature)"

_CLOSE = r"""\\{0,7}["']?\]?[ \t]{0,20}"""  # what closes a quoted name, escaped where JSON is inside JSON
_EQUALS = r"""(?:=>|:?=|==(?=[ \t]{0,20}["']))(?!=)[ \t]{0,20}"""
_COLON = r":[ \t]{0,20}"
_BARE = r"""[^\s"'&;,]*[^\s"'&;,)\]}.]"""  # up to a separator, but for the brackets and the full stop before it
_QUOTED = (
    r"""(?:b?(?P<open>\\{1,7}["'])(?:(?!(?P=open))[^\r\n])+"""
    r"""|b?(?P<quote>["'])(?:\\.|(?!(?P=quote))[^\\\r\n])+)"""
)
# After "password: " a bare word is prose more often than not; one with a digit or a sign is not.
_ODD = r"[0-9!@#$%^*+=~]"
_PLAIN = r"""[^\s"'&;,0-9!@#$%^*+=~]"""
# What stands in a secret's place without being one: placeholders, words of validation messages, our own marker.
_HARMLESS = (
    r"""b?\\{0,7}["']?(?:\[redacted\]|\[secure\]|\*{3,}(?=["'),;&\s]|$)"""
    r"""|\$\{|\$[A-Z_]{3,}(?!\w)|\{\w*\}|\{\{|%\(\w|<[\w .-]{1,40}>"""
    r"""|os\.(?:environ|getenv)|(?:none|null|nil|true|false|undefined|unset|empty|unknown|required|optional|missing|invalid"""
    r"""|expired|incorrect|wrong|denied|not|is|must|str|string|bytes|secretstr|any)(?![\w$!@#%^*+=~-]))"""
)


def _vendor_rule(prefixes: str, body: str) -> Rule:
    start = "|".join(map(re.escape, prefixes.split()))
    return _rule(prefixes, f"(?<![A-Za-z0-9])(?:{start}){body}", re.NOFLAG)


RULES = (
    _rule(  # PEM, cut off or not
        "-----begin",
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
        r".*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)",
        re.DOTALL,
    ),
    _rule(  # scheme://user:password@host; a port is no password, nor is the tag before an image's digest
        "://",
        r"""(?P<keep>://[^\s/:@"'<>]{0,128}:)(?!\d{1,5}(?:[/?#\s"']|$)|(?:\[redacted\]|\*{3,})@)"""
        r"""[^\s"'<>@]{1,256}+(?:@[^\s"'<>@/?#]{1,256}+){0,4}(?=@(?!sha256:))""",
    ),
    _rule("://", r"(?<=://)(?=[a-z_-]{0,64}[0-9])[\w-]{20,128}+(?=(?::[^\s/@]{0,64})?@)"),  # https://token@host
    _rule(
        "hooks.slack.com/ /api/webhooks/ webhook.office.com/",
        r"(?P<keep>hooks\.slack\.com/(?:services|workflows|triggers)/|/api/webhooks/|webhook\.office\.com/webhookb2/)"
        r"[\w/@-]{20,}",
    ),
    _rule(  # schemes with parameters take the rest of the header
        "authorization",
        rf"""(?P<keep>authorization{_CLOSE}[:=,][ \t]{{0,4}}(?:b(?=["']))?\\{{0,7}}["']?"""
        r"""(?:digest|hawk|oauth|aws4-hmac-sha256)[ \t]{1,4})[a-z_]{1,40}=[^\r\n']+""",
    ),
    _rule(
        "authorization",
        rf"""(?P<keep>authorization{_CLOSE}[:=,][ \t]{{0,4}}(?:b(?=["']))?\\{{0,7}}["']?"""
        r"""(?:(?:bearer|basic|token|negotiate|apikey|api-key|bot|key)[ \t]{1,4})?+)"""
        rf"""(?!{_HARMLESS}|(?:tokens?|header|authentication|digest|hawk|oauth|aws4)\b)[^\s"',;\\]{{4,}}""",
    ),
    _rule(
        "bearer basic",
        r"""(?P<keep>(?<![a-z])(?:bearer[ \t]{1,4}["']?(?=[a-z._~+/=-]{0,64}[0-9]|[\w.~+/=-]{24})"""
        r"""|basic[ \t]{1,4}(?=[a-z+/]{0,64}[0-9=])(?=[a-z0-9+/=]{12})))[\w.~+/=-]{12,}""",
    ),
    _rule(
        "cookie",
        r"""(?P<keep>cookie\\{0,7}["']?[ \t]{0,4}[:,][ \t]{0,4}b?\\{0,7}["']?)"""
        r"""[^\s=;"']{1,100}+=(?:[^\r\n"'\\]|(?<==)"[^"\r\n]*")+""",
    ),
    _rule("<cookie", r"""(?P<keep><cookie[ ][^\s=]{1,100}=)[^\s>]++(?=[ ]for[ ])"""),  # as its repr prints it
    _rule(  # auth=("me", "hunter2")
        "auth=(",
        r"""(?P<keep>auth=\(\\{0,7}["'][^"'\\]{0,100}+\\{0,7}["'],[ ]?\\{0,7}["'])[^"'\\\r\n]++""",
    ),
    _rule(  # curl -u me:hunter2
        "curl",
        r"""(?P<keep>curl\b[^\r\n]{0,256}?[ ](?:-u|--user)[ =]?(\\{0,7}["'])?[^\s:"']{1,64}:)"""
        rf"""(?!{_HARMLESS})"""
        r"""(?(2)(?:(?!\2)[^\r\n]){1,256}|[^\s"'\\]+)""",
    ),
    _rule(  # me:hunter2@tcp(host:3306)
        "@tcp( @unix(", r"""(?P<keep>(?<![\w.-])[\w.-]{1,64}:)[^\s"'@]{1,128}+(?=@(?:tcp|unix)\()"""
    ),
    _rule(  # ("password", "hunter2")
        "pass pwd secret credential key token",
        rf"""(?P<keep>\(b?\\{{0,7}}["'][\w .-]{{0,60}}?(?:{_SURE_NAME}|{_VAGUE_NAME})\\{{0,7}}["'],[ ]?"""
        rf"""b?\\{{0,7}}["'])(?={_PLAIN}{{0,64}}+{_ODD})[^"'\\\r\n]{{6,}}+""",
    ),
    _rule(  # "name": "DB_PASSWORD", "value": "hunter2"
        "value",
        rf"""(?P<keep>(?:name|key)\\{{0,7}}["']?[ \t]{{0,4}}[:=][ \t]{{0,4}}\\{{0,7}}["']?[\w.-]{{0,60}}?{_SURE_NAME}"""
        rf"""\\{{0,7}}["']?(?:[\s,]|\\[rn]){{1,40}}\\{{0,7}}["']?value\\{{0,7}}["']?[ \t]{{0,4}}[:=][ \t]{{0,4}})"""
        rf"""(?!{_HARMLESS})(?:{_QUOTED}|{_BARE})""",
    ),
    _rule(  # <password>hunter2</password>
        "</", rf"""(?P<keep><[\w:.-]{{0,60}}?{_SURE_NAME}>)(?!{_HARMLESS})[^<>\r\n]{{1,256}}+(?=</)"""
    ),
    _rule(  # password=..., "password": "...", password: hunter2
        "pass pwd secret credential key",
        rf"""(?P<keep>api[ _-]?key[ ]provided:[ ]|{_SURE_NAME}{_CLOSE}(?:{_EQUALS}|{_COLON}"""
        rf"""(?=b?\\{{0,7}}["']|(?![\[{{(])(?=[^\s"'&;,]{{6}}){_PLAIN}{{0,64}}+{_ODD})))"""
        rf"""(?!{_HARMLESS})(?:{_QUOTED}|{_BARE})""",
    ),
    _rule(  # password: swordfish, alone on its line
        "pass pwd secret key",
        r"""(?:^|(?<=\\n))(?P<keep>[ \t]{0,40}(?:-[ \t])?["']?[\w.-]{0,60}?"""
        rf"""{_SURE_NAME}["']?[ \t]{{0,20}}{_COLON})(?!{_HARMLESS})[^\s"'{{}}\[\]()<>|&*!,:\\]"""
        r"""(?:[^\s:\\]|\\(?![rn\\])){0,500}(?=[ \t]{0,20}(?:\r?$|\\{1,7}[rn]))""",
        re.IGNORECASE | re.MULTILINE,
    ),
    _rule(  # --password hunter2
        "-",
        rf"""(?P<keep>-(?:{_SURE_NAME}|{_VAGUE_NAME})[ \t]{{1,4}}["']?)"""
        rf"""(?!-|{_HARMLESS})(?=[^\s"']{{6}})(?={_PLAIN}{{0,64}}+{_ODD})[^\s"']+""",
    ),
    _rule(  # token=..., "token": "..."
        "token jwt signature",
        rf"""(?P<keep>{_VAGUE_NAME}{_CLOSE}(?:{_EQUALS}\\{{0,7}}["']?"""
        rf"""|{_COLON}\\{{0,7}}["']?(?=[a-z._~+/=%:-]{{0,64}}+[0-9]|[\w.~+/=%:-]{{24}})))"""
        rf"""(?!{_HARMLESS}|s[vr]=|\d{{1,12}}(?![\w.~+/=%:-]))[\w.~+/=%:-]{{8,}}""",
    ),
    _rule(  # query parameters
        "? &",
        r"""(?P<keep>[?&](?:[\w.-]{0,40}?(?:token|signature|credential|secret|passw(?:or)?d|api_?key)|sig|auth|pass"""
        rf"""|(?:key|code)(?==[^\s&#"'<>]{{16}}))=)(?!{_HARMLESS})[^\s&#"'<>]{{4,}}""",
    ),
    _rule("eyJ", r"(?<![\w-])eyJ[\w-]{8,}+(?:(?:\.[\w-]*+){1,4}|\Z)", re.NOFLAG),  # JSON Web Tokens, cut off or not
    _rule(":AA", r"(?<!\d)\d{8,10}:AA[\w-]{30,}", re.NOFLAG),  # Telegram
    _rule("Q~", r"(?<![\w~.-])[\w~.-]{3}\dQ~[\w~.-]{31,40}", re.NOFLAG),  # Azure's client secrets
    _rule("JQQJ99", r"(?<![A-Za-z0-9])[A-Za-z0-9]{40,60}JQQJ99[A-Za-z0-9]{20,40}", re.NOFLAG),  # Azure's keys
    _rule(".atlasv1.", r"(?<![A-Za-z0-9])[A-Za-z0-9]{14}\.atlasv1\.[\w-]{60,}", re.NOFLAG),  # Terraform
    _rule("-us", rf"(?<![A-Za-z0-9]){_HEX}{{32}}-us\d{{1,2}}{_END}", re.NOFLAG),  # Mailchimp
    *(_vendor_rule(prefixes, body) for prefixes, body in _VENDOR_KEYS.items()),
)

_NUMBERS_OF: dict[str, list[int]] = {}
for _number, _hinted in enumerate(RULES):
    for _hint in _hinted.hints:
        _NUMBERS_OF.setdefault(_hint, []).append(_number)


def rules_for(text: str) -> list[Rule]:
    """Return the rules that a text has a hint of, in their order; most texts have none.

    Each hint is looked for once, and without a loop in Python: some are those of several rules.
    """
    hints = filter(text.lower().__contains__, _NUMBERS_OF)
    return [RULES[number] for number in sorted({number for hint in hints for number in _NUMBERS_OF[hint]})]


SECRET_KEY = re.compile(
    rf"(?:{_SURE_NAME}s?|token|jwt|authorization|cookies?|(?<![a-z])(?:auth|bearer|pass))$", re.IGNORECASE | re.ASCII
)
"""A key of a mapping whose value is a secret, whatever it looks like."""
