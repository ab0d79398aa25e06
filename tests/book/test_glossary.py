"""The glossary: every term in five languages, in order, and used in the chapter it points to."""

import re
from collections import Counter

import pytest

from tools import ROOT

TEXT = (ROOT / "book/glossary.md").read_text()
LANGUAGES = {"cs": "Czech", "de": "German", "ru": "Russian", "vi": "Vietnamese"}
LATIN = {  # Russian texts use the English name
    "Ablation-CAM",
    "CNN Fixations",
    "Grad-CAM",
    "Grad-CAM++",
    "Guided Grad-CAM",
    "HiResCAM",
    "KernelSHAP",
    "LayerCAM",
    "LIME",
    "pointing game",
    "quickshift",
    "ReLU",
    "RISE",
    "Score-CAM",
    "Shap-CAM",
    "SmoothGrad",
    "XGrad-CAM",
}
GROUP = re.compile(r"^## ([^\n]+)\n\n```\{glossary\}\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"\[Chapter (\d+)\]\(\.\./notebooks/((\d\d)_\w+)\.ipynb\)$")
CYRILLIC = re.compile(r"[а-яё]", re.I)


def terms():
    """Yield (group, term, definition, translations) of every entry, as they stand on the page."""
    for title, body in GROUP.findall(TEXT):
        paragraphs = body.strip().split("\n\n")
        for head, languages in zip(paragraphs[::2], paragraphs[1::2], strict=True):
            yield title, *head.split("\n  "), languages.strip()


def prose(chapter):
    """The text of a chapter without its cells, its references, and what only tests see."""
    text = (ROOT / f"notebooks/{chapter}.md").read_text().partition("\n## References")[0]
    return re.sub(r"\A---.*?^---|```.*?```|<!--.*?-->", "", text, flags=re.M | re.S)


TERMS = list(terms())
ROWS = pytest.mark.parametrize(
    "title, term, definition, languages", TERMS, ids=[row[1] for row in TERMS]
)


def test_as_many_terms_as_the_page_shows():
    assert len(TERMS) == TEXT.count("Vietnamese <i") and 70 <= len(TERMS) <= 140


def test_terms_are_sorted_and_unique():
    counts = Counter(term.casefold() for _, term, _, _ in TERMS)
    assert [term for term, count in counts.items() if count > 1] == []
    for group in dict.fromkeys(row[0] for row in TERMS):
        names = [term.casefold() for title, term, _, _ in TERMS if title == group]
        assert names == sorted(names), group


@ROWS
def test_every_language_has_its_word(title, term, definition, languages):
    entries = re.findall(r'(\w+) <i lang="(\w+)">([^<>]+)</i>', languages)
    assert [(code, name) for name, code, _ in entries] == list(LANGUAGES.items())
    rebuilt = [f'{name} <i lang="{code}">{word}</i>' for name, code, word in entries]
    assert languages == " · ".join(rebuilt)
    words = {code: word for _, code, word in entries}
    for word in words.values():
        assert word == word.strip() and word.count("(") == word.count(")")
    assert bool(CYRILLIC.search(words["ru"])) != (term in LATIN)
    assert not any(CYRILLIC.search(words[code]) for code in ("cs", "de", "vi"))


@ROWS
def test_definition_is_one_sentence_and_its_chapter_uses_the_term(
    title, term, definition, languages
):
    link = LINK.search(definition)
    assert link, f"{term}: the definition must end with a link to its chapter"
    sentence = definition[: link.start()].strip()
    assert sentence.endswith(".") and ". " not in sentence and sentence[0].isupper()
    number, chapter, digits = link.groups()
    assert int(number) == int(digits) and (ROOT / f"notebooks/{chapter}.md").exists()
    pattern = rf"(?<!\w){re.escape(term)}(s|es|ed)?(?!\w)"
    assert re.search(pattern, prose(chapter), re.I), (
        f"{term} does not occur in the text of {chapter}"
    )


def test_allow_list_has_no_leftovers():
    assert {row[1] for row in TERMS} >= LATIN


# Ordinary words, too: that an earlier chapter uses them says nothing.
ORDINARY = {
    "chance",
    "channel",
    "contrast",
    "control",
    "effect",
    "intervention",
    "evidence",
    "fill",
    "gain",
    "game",
    "kernel",
    "layer",
    "mask",
    "rate",
    "RISE",
    "score",
    "switch",
    "target",
    "unit",
}


@ROWS
def test_no_chapter_uses_a_term_before_it_is_explained(title, term, definition, languages):
    """An earlier chapter may use a term where its first use links to where it is explained."""
    if term in ORDINARY:
        return
    number, explains, _ = LINK.search(definition).groups()
    used = re.compile(rf"(?<![\w-]){re.escape(term)}(s|es)?(?![\w+-])", re.I)
    for chapter in sorted((ROOT / "notebooks").glob("0[1-9]_*.md")):
        paragraphs = prose(chapter.stem).split("\n\n")
        first = next((paragraph for paragraph in paragraphs if used.search(paragraph)), "")
        is_early = int(chapter.name[:2]) < int(number) and first
        assert not is_early or f"({explains}.ipynb)" in first, f"{chapter.stem}: {first[:300]}"
