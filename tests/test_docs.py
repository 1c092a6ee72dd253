"""What the pages show holds: their Python runs from the top, commands and files are such as the library takes.

A page's blocks run in their order in one fresh namespace and an empty folder, with nothing put in: what a page needs is
on the page. Two marks, each a paragraph right above its block that readers see as well, say that a block is otherwise:

- `*Fragment: what it takes.*`: such a block is only compiled.
- ``*Downloads from the Hub: `bert-base-uncased`.*``: it runs with those ids replaced by folders of tiny checkpoints.
"""

import ast
import dataclasses
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path

import jax
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import tokenizers_of
from encdec_eqx import Decoder, Encoder, StackConfig
from encdec_eqx.cli.main import COMMANDS, make_parser
from encdec_eqx.hf.families import FAMILIES
from encdec_eqx.training.job import read_job

ROOT = Path(__file__).parent.parent
GOLDENS = ROOT / "tests" / "goldens" / "families"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MORE_PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"]
_MARKS = ("Fragment", "Downloads from the Hub")
_BLOCK = re.compile(
    r"(?:^\*(?P<mark>[A-Z][\w ]+): (?P<what>[^*]+)\*\n\n)?^(?P<indent> *)```(?P<language>\w+)\n(?P<code>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        code: its text, behind as many empty lines as stand before it: errors name the page's lines.
        mark: of `_MARKS`, if it has one.
        what: what the mark says.
    """

    code: str
    mark: str | None
    what: str | None


def _blocks(page: Path, *languages: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block("\n" * text.count("\n", 0, match.start("code")) + match["code"], match["mark"], match["what"])
        for match in _BLOCK.finditer(text)
        if match["language"] in languages
    ]


def _with(*languages: str, more: bool = False) -> list:
    pages = [*PAGES, *MORE_PAGES] if more else PAGES
    return [pytest.param(page, id=page.stem) for page in pages if _blocks(page, *languages)]


def _bert(folder: Path) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = StackConfig.from_hf({"model_type": "bert", "vocab_size": 30522, "pad_token_id": 0, **sizes})
    Encoder.init(config, key=jax.random.key(0)).save_pretrained(folder)
    tokenizers_of.word_pieces(more=30522 - tokenizers_of.WORD_PIECES).save(str(folder / "tokenizer.json"))


def _gpt2(folder: Path) -> None:
    sizes = {"n_embd": 12, "n_layer": 1, "n_head": 2, "vocab_size": 50257, "bos_token_id": 0, "eos_token_id": 0}
    config = StackConfig.from_hf({"model_type": "gpt2", "is_decoder": True, "add_cross_attention": False, **sizes})
    Decoder.init(config, key=jax.random.key(1)).save_pretrained(folder)
    tokenizers_of.byte_pairs(more=50257 - tokenizers_of.BYTE_PAIRS).save(str(folder / "tokenizer.json"))


def _whole(family: str) -> Callable[[Path], None]:
    """A stored checkpoint of a whole format, with a tokenizer that fits."""

    def write(folder: Path) -> None:
        for file in (GOLDENS / family).iterdir():
            if file.name in ("config.json", "generation_config.json", "model.safetensors"):
                (folder / file.name).write_bytes(file.read_bytes())
        words = ["<pad>", "</s>", "<unk>", "How", "old", "are", "you"]
        tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
        tokenizer.add_special_tokens(words[:3])
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
        tokenizer.save(str(folder / "tokenizer.json"))

    return write


STAND_INS: dict[str, Callable[[Path], None]] = {
    "bert-base-uncased": _bert,
    "gpt2": _gpt2,
    "facebook/bart-base": _whole("bart"),
    "google/flan-t5-small": _whole("t5"),
}
"""What stands for a Hub id where a page is run: a function that writes a tiny checkpoint of that family."""


def _offline(block: Block, folder: Path) -> str:
    """A block's code, the Hub ids that its mark names replaced by folders; each of them has to be in the code."""
    code = block.code
    ids = re.findall(r"`([^`]+)`", block.what or "")
    assert ids
    for name in ids:
        place = folder / name.replace("/", "--")
        if not place.exists():
            place.mkdir()
            STAND_INS[name](place)
        assert f'"{name}"' in code
        code = code.replace(f'"{name}"', repr(str(place)))
    return code


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where stand-ins are, each made when the first page asks for it."""
    return tmp_path_factory.mktemp("hub")


@pytest.mark.parametrize("page", _with("python"))
def test_page_runs_from_top_to_bottom(page: Path, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": page.stem}
    # as in a user's process, without this suite's strict promotion: optax by itself does not work under it
    with jax.numpy_dtype_promotion("standard"):
        for block in _blocks(page, "python"):
            code = _offline(block, hub) if block.mark == "Downloads from the Hub" else block.code
            program = compile(code, page, "exec")
            if block.mark != "Fragment":
                exec(program, names)


@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in PAGES])
def test_marks_are_of_the_two_kinds(page: Path):
    assert {block.mark for block in _blocks(page, "python", "toml", "bash", "sh")} <= {None, *_MARKS}
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(rf"^\*(?:{'|'.join(_MARKS)}):", text, re.MULTILINE)) == sum(
        block.mark is not None for block in _blocks(page, "python", "toml", "bash", "sh", "text")
    )


@pytest.mark.parametrize("page", _with("python"))
def test_what_downloads_says_so(page: Path):
    for block in _blocks(page, "python"):
        calls = [node for node in ast.walk(ast.parse(block.code)) if isinstance(node, ast.Call)]
        loads = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr.startswith("from_")]
        texts = {argument.value for call in loads for argument in call.args if isinstance(argument, ast.Constant)}
        assert block.mark is not None or not texts & set(STAND_INS)


@pytest.mark.parametrize("page", _with("toml"))
def test_files_of_jobs_are_such_as_are_read(page: Path, tmp_path: Path):
    for block in _blocks(page, "toml"):
        assert tomllib.loads(block.code)
        if block.mark != "Fragment":
            (tmp_path / "job.toml").write_text(block.code)
            read_job(tmp_path / "job.toml")


def _command_lines(code: str) -> list[list[str]]:
    """The words of each command, without comments, assignments and what is only about the environment."""
    lines = code.replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, "&&"]:
            if not re.fullmatch(r"[&|;<>]+", word):
                words.append(word)
            else:
                found.append(words)
                words = []
    return [words for words in found if words]


@pytest.mark.parametrize("page", _with("bash", "sh", more=True))
def test_commands_and_their_options_exist(page: Path):
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    for block in _blocks(page, "bash", "sh"):
        for words in _command_lines(block.code):
            while re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            program, *arguments = words
            if Path(program).name == "encdec-eqx":
                _parse(arguments)
            elif Path(program).name.startswith("python"):
                _find_script(arguments)
            elif Path(program).name == "pip":
                wanted = [name for word in arguments for name in re.findall(r"^\.\[(.+)\]$", word)]
                assert {extra for names in wanted for extra in names.split(",")} <= extras
            elif "/" in program and not program.startswith((".venv", ".legacy")):
                _has_options(ROOT / program, arguments)


def _parse(arguments: list[str]) -> None:
    """Ends in an error unless the command takes these words."""
    if arguments and not {"--help", "--version", "--print-completion"}.intersection(arguments):
        make_parser([verb for verb in arguments if verb in COMMANDS][:1]).parse_args(arguments)


def _find_script(arguments: list[str]) -> None:
    if arguments[:2] == ["-m", "encdec_eqx"]:
        _parse(arguments[2:])
    elif arguments[:1] == ["-m"] and arguments[1].startswith("benchmarks"):
        _has_options(ROOT / f"{arguments[1].replace('.', '/')}.py", arguments[2:])
    elif arguments and arguments[0].endswith(".py"):
        _has_options(ROOT / arguments[0], arguments[1:])


def _has_options(script: Path, arguments: list[str]) -> None:
    """That a script is there, and that it or what stands beside it reads each option."""
    assert script.exists()
    text = "".join(path.read_text(encoding="utf-8") for path in {script, *script.parent.glob("*.py")})
    options = {word for word in arguments if word.startswith("--")}
    missing = {word for word in options if word not in text and word.strip("-").replace("-", "_") not in text}
    assert not missing


def test_the_readme_counts_the_families():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    counted = {
        role: sum(role in family.architectures for family in FAMILIES.values()) for role in ("encoder", "decoder")
    }
    assert re.findall(r"(\d+) families", text) == [str(counted["encoder"]), str(counted["decoder"])]
    assert f"- **Families**: {len(FAMILIES)} of them" in text


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_links_lead_somewhere(path: Path):
    targets = re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    missing = [target for target in local if not (path.parent / target).exists()]
    assert not missing
