"""The page: its numbers against other ways to them, its text against the text, and nothing in it that could run."""

import base64
import hashlib
import html
import json
import math
import re
import sys
import unicodedata
from pathlib import Path

import msgspec
import numpy as np
import pytest
import regex
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from support.models import BytesModel, uniform_loss
from support.pages import HOSTILE, Every, details, report

import evalgpt
from evalgpt import UsageError, write_report
from evalgpt.cli import cli
from evalgpt.report.detail import RowDetail
from evalgpt.report.document import RowInfo, Tokenized
from evalgpt.studies.compare.alignment import align, token_losses
from evalgpt.studies.compare.comparison import compare
from evalgpt.views.page.bins import along, by_context, calibrate, distribution, passages, track_of
from evalgpt.views.page.build import BEGINS, build_page
from evalgpt.views.page.cells import cells_of, chapters_of, chunks, shown
from evalgpt.views.page.map import difference_map, script_json, token_map

pytestmark = pytest.mark.slow

SAFE = (
    r"html|head|meta|title|style|body|a|header|h[1-4]|p|nav|[uo]l|li|main|section|div|table|thead|tbody|t[rhd]|bdi|d[ltd]|"
    r"span|strong|mark|i|aside|noscript|script|figure|figcaption|svg|g|path|text|details|summary|pre|code|footer"
)
FILES = Path(evalgpt.__file__).parent / "views" / "page" / "files"
PIECES = [
    "a",
    " ",
    "é",
    "e\u0301",
    "🙂",
    "👩\u200d👩\u200d👧",
    "🇳🇴",
    "🇳",
    "👋🏽",
    "1\ufe0f\u20e3",
    "\r\n",
    "\n",
    "\0",
    "ש",
    "\u200d",
]


def row_of(text, edges, context=""):
    """A row of ``context`` and ``text`` cut at ``edges``, with every token scored."""
    raw = (context + text).encode()
    cut = sorted({0, len(raw), *(e for e in edges if e < len(raw))})
    n = len(cut) - 1
    kept = Tokenized(
        ids=list(range(n)), text=context + text, byte_starts=cut[:-1], byte_ends=cut[1:],
        first=[0] if n else [], size=[n] if n else [], context=[1] if n else [], nll=[float(i) for i in range(n)],
    )  # fmt: skip
    start = len(context.encode())
    return RowInfo(
        id="r", split="", group="", label="", offset=0, bytes=len(raw) - start, context_bytes=start, context_tokens=0,
        sha256="", tokens=n, scores=n, loss=None, tokenized=kept,
    )  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.sets(st.integers(1, 60)))
def test_cells_hold_the_text_and_cut_no_token_and_no_character(parts, edges):
    text = "".join(parts)
    row = row_of(text, edges)
    cells = cells_of(row, row.tokenized)
    assert "".join(cells.text) == text
    assert sorted(cells.tokens.tolist()) == row.tokenized.ids
    assert cells.count.sum() == len(row.tokenized.ids)
    starts = {0, *np.cumsum([len(c.encode()) for c in regex.findall(r"\X", text)]).tolist()}
    ends = {0, *row.tokenized.byte_ends}
    assert set(cells.edges.tolist()) == starts & ends


def test_an_emoji_of_several_tokens_is_one_cell_with_all_their_values():
    made = report(Every(1), texts=("ab🙂cd and so on, and on, and on",))
    (evaluation,) = made.evaluations
    found = token_map(evaluation, track_of(evaluation), {}, "e1")
    values = json.loads(found.values)
    html_of_all = "".join(str(markup) for row in found.rows for _, _, markup in row.chunks)
    assert re.search(r"<i [^>]*>🙂</i>", html_of_all)
    assert values["count"][2] == 4
    assert [values["bytes"][str(i)] for i in range(2, 6)] == ["F0", "9F", "99", "82"]
    assert values["nll"] == pytest.approx(evaluation.rows[0].tokenized.nll, abs=6e-5)


@given(st.text())
def test_nothing_invisible_is_left_of_a_text(text):
    for character in shown(text):
        joins = character == "\u200d" or "\ufe00" <= character <= "\ufe0f" or "\U000e0020" <= character <= "\U000e007f"
        kind = unicodedata.category(character)
        assert character in "\n\t" or joins or kind not in ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp")
    assert shown("\0") == "␀"
    assert shown("\u202e") == "⟨U+202E⟩"


@pytest.mark.parametrize("step", [1, 3, 400])
def test_the_map_has_the_whole_text_and_no_markup_of_it(step):
    (evaluation,) = report(Every(step)).evaluations if step < 400 else report(Every(1)).evaluations
    found = token_map(evaluation, track_of(evaluation), {}, "e1")
    markup = "".join(str(m) for row in found.rows for _, _, m in row.chunks)
    tags = set(re.findall(r"<[^>]*>", markup))
    assert all(re.fullmatch(r'<i class="(h\d( u)?|n)"( id="e1-p\d")?>|</i>', tag) for tag in tags)
    row = evaluation.rows[0]
    expected = "".join(shown(c) for c in cells_of(row, row.tokenized).text)
    assert html.unescape(re.sub(r"<[^>]*>", "", markup)) == expected
    firsts = [first for first, _, _ in found.rows[0].chunks]
    counts = [str(m).count("</i>") for _, _, m in found.rows[0].chunks]
    assert firsts == [0, *np.cumsum(counts)[:-1].tolist()]


def test_chunks_end_at_line_breaks_where_there_are_any():
    texts = (["word "] * 50 + ["\n"]) * 20
    found = chunks(texts, ["h1"] * len(texts), {3: "here"})
    assert len(found) > 3
    assert all(str(markup).endswith("↵\n</i>") for _, _, markup in found)
    assert str(found[0][2]).count('id="here"') == 1
    assert len(chunks(["x"] * 5000, ["h1"] * 5000, {})) == 4


def test_values_and_marks_are_those_of_the_losses():
    (evaluation,) = report(Every(3)).evaluations
    found = token_map(evaluation, track_of(evaluation), {}, "e1")
    values = json.loads(found.values)
    row = evaluation.rows[0]
    loss = token_losses(row.tokenized)
    order = cells_of(row, row.tokenized).tokens
    assert values["nll"] == [round(float(x), 4) for x in loss[order]]
    assert values["id"] == [row.tokenized.ids[i] for i in order]
    classes = re.findall(r'<i class="(h\d)( u)?"', "".join(str(m) for _, _, m in found.rows[0].chunks))
    cells = np.add.reduceat(loss[order], np.cumsum(values["count"]) - values["count"])
    assert [int(name[1]) for name, _ in classes] == [min(int(x), 9) for x in cells]
    assert [bool(mark) for _, mark in classes] == [x > np.quantile(cells, 0.95) for x in cells]


def test_details_stand_beside_their_tokens():
    made = report(Every(3), spec="hf-strided:context=16,stride=4")
    found = details(made)
    (evaluation,) = made.evaluations
    values = json.loads(token_map(evaluation, track_of(evaluation), {0: found[0, 0]}, "e1").values)
    by_token = dict(zip(reversed(found[0, 0].token.tolist()), reversed(found[0, 0].rank.tolist()), strict=True))
    row = evaluation.rows[0]
    assert values["rank"] == [by_token.get(i) for i in cells_of(row, row.tokenized).tokens.tolist()]
    assert values["rank"][0] is None
    assert values["strings"] == ["<b>one</b>", "⟨U+202E⟩two", " three", "↵\n"]
    assert len(values["top"][5]) == 8
    found[0, 0].top_logprobs[:, 2:] = -np.inf
    values = json.loads(token_map(evaluation, track_of(evaluation), {0: found[0, 0]}, "e1").values)
    assert len(values["top"][5]) == 4


@pytest.mark.parametrize("steps", [(1, 1), (2, 3), (5, 7)])
def test_the_differences_on_the_map_add_up_to_the_comparison(steps):
    a, b = report(*(Every(step, salt) for salt, step in enumerate(steps))).evaluations
    found = difference_map(a, b, align(a, b), "d1")
    values = json.loads(found.values)
    total = math.fsum(y - x for x, y in zip(values["a"], values["b"], strict=True) if x is not None)
    told = compare(a, b)
    assert None not in values["a"] + values["b"]
    assert total / math.log(2) / told.bytes == pytest.approx(told.bits_per_byte_difference.value, abs=1e-5)
    markup = "".join(str(m) for _, _, m in found.rows[0].chunks)
    signs = [name[0] for name in re.findall(r'class="(\w+)"', markup)]
    gaps = [y - x for x, y in zip(values["a"], values["b"], strict=True)]
    assert signs == ["z" if abs(gap) < 0.25 else "a" if gap > 0 else "b" for gap in gaps]


def test_what_one_side_did_not_score_has_no_difference():
    a, b = report(Every(2, prefix_id=None), Every(3, 1, prefix_id=None)).evaluations
    values = json.loads(difference_map(a, b, align(a, b), "d1").values)
    assert values["a"][0] is None
    assert values["b"][0] is None
    assert compare(a, b).bytes < a.task.bytes


def test_bins_are_means_of_all_there_is():
    made = report(Every(2), texts=(HOSTILE, HOSTILE[::-1]), context="given before ", spec="exact:context=64,stride=16")
    (evaluation,) = made.evaluations
    track = track_of(evaluation)
    assert track.loss.mean() == pytest.approx(evaluation.metrics.loss)
    text = along(track)
    weights = [track.size[(track.at >= b.begin) & (track.at < b.end)].sum() for b in text]
    assert np.average([b.value for b in text], weights=weights) == pytest.approx(evaluation.metrics.bits_per_byte)
    contexts = by_context(track)
    assert sum(b.count for b in contexts) == evaluation.metrics.scores
    assert min(b.count for b in contexts) >= 20
    for bin_ in contexts:
        inside = (track.fed >= bin_.begin) & (track.fed <= bin_.end)
        assert bin_.value == pytest.approx(track.nll[inside].mean())
        assert bin_.count == inside.sum()
    assert contexts[-1].end == evaluation.ledger.context.largest
    losses = distribution(track.loss)
    assert sum(b.count for b in losses) == len(track.loss)
    for bin_ in losses:
        assert bin_.count == ((track.loss >= bin_.begin) & (track.loss < bin_.end)).sum()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_a_distribution_counts_every_value_once(values):
    bins = distribution(np.array(values))
    assert sum(b.count for b in bins) == len(values)
    assert len(bins) <= 43
    assert any(b.begin == 0 or b.end == 0 for b in bins)


def test_calibration_is_that_of_a_plain_count():
    found = details(report(Every(1)))[0, 0]
    curve = calibrate({0: found})
    sure, right = np.exp(found.top_logprobs[:, 0].astype(float)), found.rank == 0
    assert curve.accuracy == right.mean()
    for bin_, predicted in zip(curve.bins, curve.predicted, strict=True):
        inside = (sure >= bin_.begin) & (sure < bin_.end)
        assert bin_.count == inside.sum()
        assert bin_.value == pytest.approx(right[inside].mean())
        assert predicted == pytest.approx(sure[inside].mean())
        assert 0 <= bin_.low <= bin_.value <= bin_.high <= 1
    assert calibrate({}) is None


@pytest.mark.parametrize(
    ("right", "interval"),
    [(12, (0.2875585353039122, 0.6454206125314121)), (0, (0, 0.1287289218592153)), (26, (1 - 0.1287289218592153, 1))],
)
def test_calibration_has_wilsons_interval(right, interval):
    rank = np.where(np.arange(26) < right, 0, 3)
    logprobs = np.log(np.full((26, 1), 0.55, dtype=np.float32))
    curve = calibrate({0: RowDetail(np.arange(26), rank, np.zeros(26, dtype=np.float32), [["a"]] * 26, logprobs)})
    (found,) = curve.bins
    assert (found.low, found.high) == pytest.approx(interval, rel=1e-9, abs=1e-12)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=90), st.sets(st.integers(1, 89), max_size=3))
def test_passages_are_the_greatest_that_do_not_overlap(values, borders):
    group = np.cumsum([i in borders for i in range(len(values))])
    found = passages(np.array(values, dtype=float), group, most=3)
    assert found
    used = [i for first, last in found for i in range(first, last)]
    assert len(used) == len(set(used))
    assert all(group[first] == group[last - 1] for first, last in found)
    best = max(
        sum(values[i : i + 24])
        for i in range(len(values))
        if (group[i : i + 24] == group[i]).all() and (i + 24 <= len(values) or i == 0)
    ) if not borders else None  # fmt: skip
    if best is not None:
        assert sum(values[slice(*found[0])]) == best


def test_headings_of_each_kind_are_found():
    text = (
        "CHAPTER I\n\nI saw. chapter two was long\n\nPart of it\n\nChapter II. The Sea\n\nIV\n\n"
        "V. A Title\n\nI\nwas here\n\nvi\n\n# Marked\n\n## Less $x$\nIt. was not\n\nprologue\n\n#hashtag\n"
    )
    row = row_of(text, range(len(text)), context="# Given\n\n")
    found = chapters_of(row, row.tokenized)
    assert [c.title for c in found] == [
        "CHAPTER I", "Chapter II. The Sea", "IV", "V. A Title", "I", "Marked", "Less $x$",
    ]  # fmt: skip
    assert all(text.encode()[c.at :].lstrip(b"# ").decode().startswith(c.title) for c in found)


def page_of(*reports, **options):
    return build_page(reports, **options).decode()


@pytest.fixture(scope="module")
def hostile():
    made = report(Every(1), Every(3, 1))
    made = msgspec.structs.replace(made, run=msgspec.structs.replace(made.run, command=["evalgpt", "<i>\0\u202e"]))
    return made


def test_equal_reports_give_equal_pages(hostile):
    assert build_page([hostile], [details(hostile)]) == build_page([hostile], [details(hostile)])


def test_nothing_of_a_text_can_run(hostile):
    page = page_of(hostile, details=[details(hostile)], title="</title><script>1</script>\u202e")
    assert page.startswith(BEGINS.decode())
    bare = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    assert "<script>" not in bare
    assert "<img" not in page
    assert "\0" not in page
    assert "\u202e" not in page
    assert "\u2028" not in page
    assert not re.search(r"<[^>]* (on\w+|style|src)\s*=", bare)
    links = re.findall(r"<a [^>]*>", bare)
    assert links
    assert all(' href="#' in link for link in links)
    assert all(re.fullmatch(SAFE, name) for name in re.findall(r"<(\w+)", bare))
    for block in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL):
        assert json.loads(block)
        assert not re.search(r"[<>&\u2028\u2029]", block)


def test_the_policy_allows_the_pages_own_style_and_script_alone(hostile):
    page = page_of(hostile)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    policy = html.unescape(policy)
    for name in ("style", "script"):
        (code,) = re.findall(rf"<{name}>(.*?)</{name}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert policy.endswith("base-uri 'none'; form-action 'none'")
    assert "unsafe" not in policy


@given(st.text())
def test_json_in_a_script_comes_back_and_ends_nothing(text):
    found = str(script_json([text]))
    assert json.loads(found) == [text]
    assert not set("<>&\u2028\u2029") & set(found)


def test_a_report_without_tokens_has_a_page():
    page = page_of(report(Every(1), tokens=False))
    assert "run it without --no-tokens" in page
    assert "unscored at the head" in page
    assert "<svg" not in page


def test_tokens_without_places_are_shown_by_their_ids():
    page = page_of(report(Every(3, spans=False)))
    assert "cannot tell where its tokens lie" in page
    assert 'class="text by-id"' in page
    assert "tokens from the beginning" in page


def test_a_report_that_keeps_no_text_says_so():
    made = report(Every(3), Every(2))
    rows = [
        [msgspec.structs.replace(r, tokenized=msgspec.structs.replace(r.tokenized, text=None)) for r in e.rows]
        for e in made.evaluations
    ]
    lean = [msgspec.structs.replace(e, rows=r) for e, r in zip(made.evaluations, rows, strict=True)]
    page = page_of(msgspec.structs.replace(made, evaluations=lean))
    assert "does not keep the text" in page
    assert "The map of the differences needs the text" in page


@pytest.mark.parametrize(
    "spec", ["book:context=4", "lm-eval", "llama.cpp:context=16", "hf-strided:context=16,stride=4"]
)
def test_every_protocol_has_a_page(spec):
    page = page_of(report(Every(1), spec=spec))
    assert "The most surprising passages" in page


def test_two_words_and_many_documents_have_pages():
    assert "too few tokens for an interval" in page_of(report(Every(1), texts=("ab",)))
    page = page_of(report(Every(2), Every(3), texts=[f"text {n} 🙂" for n in range(30)], context="given "))
    assert page.count("<h4>") == 3 * 30
    assert "text-29" in page


EDGES = {
    "one token": lambda: report(Every(2), texts=("a",), context="x "),
    "a text of nothing among others": lambda: report(Every(3), Every(2, 1), texts=("some text of it", "", "more text")),
    "one character": lambda: report(Every(1, prefix_id=None), Every(1, 1, prefix_id=None), texts=("🙂",)),
    "no line break": lambda: report(Every(2), texts=("x" * 9000,)),
    "equal losses": lambda: report(
        BytesModel(uniform_loss, context_length=64), texts=("nothing stands out here " * 9,)
    ),
}


@pytest.mark.parametrize("name", EDGES)
def test_the_page_of_an_odd_text_is_whole(name):
    page = page_of(EDGES[name]())
    assert page.endswith("</html>")
    assert "nan" not in re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)


def test_what_cannot_be_compared_is_said():
    page = page_of(report(Every(1)), report(Every(2), texts=("another text, and not the first",)))
    assert "Not compared" in page
    assert "the texts differ" in page


def test_a_report_whose_tokens_do_not_fit_its_text_is_refused():
    made = report(Every(3))
    (evaluation,) = made.evaluations
    (row,) = evaluation.rows
    for name, value in (("byte_ends", [9999] * row.tokens), ("byte_starts", [-1] * row.tokens), ("text", "short")):
        kept = msgspec.structs.replace(row.tokenized, **{name: value})
        changed = msgspec.structs.replace(evaluation, rows=[msgspec.structs.replace(row, tokenized=kept)])
        with pytest.raises(UsageError, match="do not fit it"):
            build_page([msgspec.structs.replace(made, evaluations=[changed])])
    with pytest.raises(UsageError, match="no evaluation"):
        build_page([msgspec.structs.replace(made, evaluations=[])])


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1, 2], ids=["light", "dark", "print"])
def test_every_colour_has_enough_contrast(scheme):
    """WCAG 2.2 AA: 4.5 for text, 3 for lines. The steps of the scale are even in lightness."""
    blocks = re.findall(r":root \{(.*?)\}", (FILES / "page.css").read_text(encoding="utf-8"), re.DOTALL)
    themes = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in blocks if "--paper" in block]
    assert len(themes) == 3
    colours = themes[scheme]
    for back in ("paper", "raised"):
        for text in ("ink", "muted", "link", "warn"):
            assert contrast(colours[text], colours[back]) >= 4.5, (text, back)
        for line in ("a", "b", "muted"):
            assert contrast(colours[line], colours[back]) >= 3, (line, back)
    assert contrast(colours["ink"], colours["warn-paper"]) >= 4.5
    assert contrast(colours["warn"], colours["warn-paper"]) >= 4.5
    scale = [colours[f"h{k}"] for k in range(1, 10)]
    for name in (*(f"h{k}" for k in range(1, 10)), *(f"{s}{k}" for s in "ab" for k in range(1, 5))):
        assert contrast(colours["ink"], colours[name]) >= 4.5, name
    lightness = [116 * np.cbrt(luminance(c)) - 16 for c in scale]
    steps = np.diff(lightness)
    assert max(np.sign(steps)) == min(np.sign(steps))
    assert max(abs(steps)) < 2 * min(abs(steps))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "made.json"
    write_report(report(Every(1)), str(path))
    return path


def run(*arguments):
    return CliRunner().invoke(cli, ["html", *map(str, arguments)])


def test_the_command_writes_beside_the_report_and_again(saved):
    for _ in range(2):
        result = run(saved)
        assert result.exit_code == 0, result.output
    page = saved.with_suffix(".html")
    assert page.read_bytes() == build_page([report_at(saved)], sources=[str(saved)])
    assert f"Page: {page}" in result.stderr
    assert run(saved, "-o", "-", "--title", "Mine").stdout.count("Mine") == 2


def report_at(path):
    return evalgpt.read_report(str(path))


def test_the_command_writes_over_nothing_but_a_page(saved, tmp_path):
    other = tmp_path / "notes.html"
    other.write_text("<!doctype html>\nmy own\n")
    for target, why in (
        (other, "something else than a page"),
        (saved, "which this command reads"),
        (tmp_path, "folder"),
    ):
        result = run(saved, "-o", target)
        assert result.exit_code == 2
        assert why in result.output
        assert result.output.count("\n") == 1
    assert other.read_text() == "<!doctype html>\nmy own\n"
    assert run(tmp_path / "none.json").exit_code == 2


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_extra_is_named(saved, monkeypatch, package):
    for name in [n for n in sys.modules if n.startswith(("evalgpt.views.page", "evalgpt.cli.commands.html"))]:
        monkeypatch.delitem(sys.modules, name)
    for name in [n for n in sys.modules if n.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    result = run(saved)
    assert result.exit_code == 2
    assert "evalgpt[html]" in result.output
    assert result.output.count("\n") == 1
