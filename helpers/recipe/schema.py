"""The recipe: one YAML file that says what is built and how it is served (notebook 07).

A file becomes a :class:`Recipe`, or one :class:`~helpers.errors.WorkshopError` that names every field that is wrong,
what was found there, what is allowed, and the nearest valid spelling. Whether the recipe makes sense for its model and
its GPU is another question: :mod:`helpers.recipe.rules`.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from helpers import checkpoint, hardware, models
from helpers.cards import boxed, paragraph, preformatted
from helpers.errors import WorkshopError
from helpers.memory import KV_SHARE
from helpers.recipe import reading
from helpers.toolchains.choices import AUTO, TITLES, kv_of
from helpers.toolchains.serving import LOCAL, ServeOptions
from helpers.toolchains.sizes import Sizes
from helpers.workspace import DATA, REPOSITORY

CPU = "cpu"
"""What a recipe writes in place of a GPU for the CPU toolchain."""

_MOST = 2**31 - 1  # sizes are 32-bit integers in TensorRT-LLM
_TEXTS = checkpoint.CALIBRATION_TEXTS  # lines of data/calibration/train.jsonl

Precision = Literal["fp16", "fp8", "int8", "int8_wo", "int4_awq"]
KvCache = Literal["auto", "fp16", "fp8", "int8"]
Count = Annotated[int, Field(ge=1, le=_MOST)]

_SECRET = re.compile(
    r"(^|_)(token|(api|private|access)_?keys?|secrets?|passwords?|passwd|credentials?|authorization|bearer)($|_)"
)
_NEW_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^A-Za-z0-9]+")  # hfToken, HFToken, hf-token
FULL_COMMIT = re.compile(r"[0-9a-f]{40}")
"""What pins a model of the hub for good: a branch, a tag or a short hash does not."""

_REVISION = re.compile(r"[A-Za-z0-9][\w.-]{0,99}")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_HOST = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:-]*")


class _Part(BaseModel):
    """What every part of a recipe has: no unknown field, no change once it is there, no guessing of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Calibration(_Part):
    """What the quantizer looks at.

    Attributes:
        texts: how many texts of ``data/calibration/train.jsonl``.
    """

    texts: Annotated[int, Field(ge=1, le=_TEXTS)] = _TEXTS


class Serving(_Part):
    """How the engine is put behind an API.

    Attributes:
        host: the address to listen on; only this machine reaches the default.
        port: None for a free one.
        kv_cache_share: of the memory that is free beside the engine, what the KV cache takes (GPU).
        kv_cache_tokens: tokens that the KV cache holds (CPU); None for a full batch at full length.
        chunked_prefill: read long prompts in chunks, over several steps.
        max_queue: requests that may wait before the server answers 429 (CPU).
    """

    host: str = LOCAL
    port: Annotated[int, Field(ge=0, le=65535)] | None = None
    kv_cache_share: Annotated[float, Field(gt=0, le=1)] = KV_SHARE
    kv_cache_tokens: Count | None = None
    chunked_prefill: bool = False
    max_queue: Count = 256

    @field_validator("host")
    @classmethod
    def _address(cls, host: str) -> str:
        if not _HOST.fullmatch(host):
            raise ValueError("Write an address, such as 127.0.0.1, or a host's name.")
        return host


class Recipe(_Part):
    """What is built, for which machine, and how it is served.

    Attributes:
        model: a name of ``data/models.toml``, ``bundled``, a folder, or a hub id.
        revision: a commit of the hub; None for the pin of ``data/models.toml``.
        gpu: a key of ``data/gpus.toml``, or ``cpu``.
        max_input_len: tokens of a prompt, at most.
        max_output_len: tokens of an answer, at most.
        max_batch_size: requests that run at once.
        max_num_tokens: tokens in one step, all requests together.
        precision: of the weights.
        kv_cache: ``auto`` for what goes best with the weights.
        calibration: what the quantizer looks at.
        tensor_parallel_size: number of GPUs that share the model.
        serving: how it is put behind an API.
    """

    model: str
    revision: str | None = None
    gpu: str
    max_input_len: Count
    max_output_len: Count
    max_batch_size: Count
    max_num_tokens: Count
    precision: Precision
    kv_cache: KvCache = "auto"
    calibration: Calibration = Calibration()
    tensor_parallel_size: Count = 1
    serving: Serving = Serving()

    _name: str = PrivateAttr("recipe")

    @field_validator("model")
    @classmethod
    def _known_model(cls, model: str) -> str:
        return _model(model)

    @field_validator("gpu")
    @classmethod
    def _known_gpu(cls, gpu: str) -> str:
        if gpu.lower() == CPU:
            return CPU
        try:
            return hardware.by_key(gpu).key
        except WorkshopError as unknown:
            hint = "" if "Did you mean" in str(unknown) else _nearest_gpu(gpu)
            raise ValueError(f"{unknown} Or {CPU!r}.{hint}") from None

    @model_validator(mode="after")
    def _pinned_on_the_hub(self) -> "Recipe":
        if self.revision is not None and not _REVISION.fullmatch(self.revision):
            raise ValueError("revision: Write the 40 hexadecimal digits of a commit, or null.")
        if self.revision is not None and not self.on_hub:
            raise ValueError(
                f"revision: Only a model of the Hugging Face hub has one, and {self.model!r} is on this disk. Write "
                "null, or leave it out."
            )
        return self

    @property
    def name(self) -> str:
        """The stem of its file, such as ``bundled-cpu``."""
        return self._name

    @property
    def max_seq_len(self) -> int:
        """Tokens of a prompt and its answer, at most."""
        return self.max_input_len + self.max_output_len

    @property
    def on_cpu(self) -> bool:
        """It is for the CPU toolchain."""
        return self.gpu == CPU

    @property
    def on_hub(self) -> bool:
        """Its model comes from the Hugging Face hub, not from a folder."""
        return self.model in models.known() or not (self.model == models.BUNDLED or _is_folder(self.model))

    @property
    def source(self) -> str:
        """The model as :func:`helpers.models.find` takes it, with its revision where one is asked for."""
        return f"{self.model}@{self.revision}" if self.revision else self.model

    @property
    def kv(self) -> str | None:
        """What the KV cache is kept in: ``fp8``, ``int8``, or None for 16 bits; ``auto`` is resolved.

        On a CPU ``auto`` is 16 bits, whatever the weights are: its plugin has no FP8 cache.
        """
        if self.kv_cache == AUTO:
            return None if self.on_cpu else kv_of(self.precision)
        return None if self.kv_cache == "fp16" else self.kv_cache

    @property
    def sizes(self) -> Sizes:
        """What the engine and its server hold at most."""
        return Sizes(self.max_batch_size, self.max_num_tokens, self.max_input_len, self.max_seq_len)

    def serve_options(self) -> ServeOptions:
        """What the server is told; port 0 stands for a free one."""
        serving = self.serving
        return ServeOptions(
            sizes=self.sizes,
            host=serving.host,
            port=serving.port or 0,
            kv_share=serving.kv_cache_share,
            kv_tokens=serving.kv_cache_tokens,
            chunked_prefill=serving.chunked_prefill,
            max_queue=serving.max_queue,
        )

    def changed(self, name: str | None = None, **fields: Any) -> "Recipe":
        """The same recipe with other values.

        Args:
            name: of the new one; None for this one's.
            fields: name to value; a field of a part is written with two underscores, such as ``serving__port=8000``.

        Raises:
            WorkshopError: as :func:`parse`.
        """
        data = self.model_dump()
        for field, value in fields.items():
            part, _, within = field.partition("__")
            if within and isinstance(data.get(part), dict):
                data[part][within] = value
            else:
                data[field] = value
        return parse(data, name or self.name)

    def to_yaml(self) -> str:
        """The recipe as YAML, every field written out; :func:`load` reads the same recipe from it."""
        import yaml

        return str(yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True))

    @cached_property
    def remarks(self) -> "tuple[Any, ...]":
        """What :func:`helpers.recipe.rules.check` has to say of it."""
        from helpers.recipe.rules import check

        return tuple(check(self))

    def __str__(self) -> str:
        said = [str(remark) for remark in self.remarks]
        return "\n".join([f"# recipe {self.name}", self.to_yaml().rstrip(), *said])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        said = "".join(map(paragraph, self.remarks))
        return boxed(f"Recipe {self.name}", preformatted(self.to_yaml().rstrip()) + said)


def given(what: Recipe | str | Path) -> Recipe:
    """The recipe that somebody means: itself, or by its file or its name.

    Raises:
        WorkshopError: it is something else; or as :func:`load`.
    """
    if isinstance(what, Recipe):
        return what
    if isinstance(what, str | Path):
        return load(what)
    raise WorkshopError(
        f"A recipe is wanted here, and this is a {type(what).__name__}. Give what recipe.load(...) returns, or a "
        "recipe's file or name."
    )


def is_file(recipe: Recipe) -> bool:
    """It is one of ``data/recipes`` as it stands there, so that its name says all of it."""
    return recipe.name in reading.names() and load(recipe.name) == recipe


def load(path_or_name: str | Path) -> Recipe:
    """Read a recipe.

    Args:
        path_or_name: a YAML file, or the name of one in ``data/recipes`` without its ending.

    Raises:
        WorkshopError: there is no such file, it is no YAML that a recipe may be, or fields are wrong: each with what
            was found, what is allowed, and the nearest valid spelling.
    """
    file = _file(path_or_name)
    where = _where(file)
    data, lines = reading.fields_of_file(file, where)
    return parse(data, file.stem, where, lines)


def parse(
    data: Mapping[str, Any], name: str = "recipe", where: str = "", lines: Mapping[tuple[str, ...], int] | None = None
) -> Recipe:
    """A recipe from its fields.

    Args:
        data: field to value.
        name: what to call the recipe.
        where: the file, for messages; empty for the name.
        lines: where each field stands in it, counted from 1.

    Raises:
        WorkshopError: names every field that is wrong.
    """
    lines = lines or {}
    secrets = [path for path, value in _paths(data) if _is_secret(path) or _holds_secret(path, value)]
    problems = [(path, _NO_SECRET) for path in secrets]
    try:
        made = Recipe.model_validate(data)
    except ValidationError as refused:
        told = [(_path(error), _sentence(error, data)) for error in _each_once(refused.errors(), data)]
        problems += [(path, text) for path, text in told if path not in secrets]
    if problems:
        written = [path for path, _ in _paths(data)]  # in the order of the file; what is missing in it comes last
        problems.sort(key=lambda one: written.index(one[0]) if one[0] in written else len(written))
        rows = [f"  {_named(path, lines)}: {text}" for path, text in problems]
        raise WorkshopError(reading.masked("\n".join([f"The recipe {where or name} cannot be used:", *rows])))
    made._name = name
    return made


_NO_SECRET = (
    "a secret has no place in a recipe, which is shared; its value is not shown here. Take it out of the file and put "
    "it into the environment (HF_TOKEN for the Hugging Face hub)."
)


def from_text(text: str, name: str = "recipe") -> Recipe:
    """Read a recipe from YAML text.

    Args:
        text: what a file would say.
        name: what to call it.

    Raises:
        WorkshopError: as :func:`load`.
    """
    data, lines = reading.fields(text, name)
    return parse(data, name, name, lines)


def _file(path_or_name: str | Path) -> Path:
    """The file of a recipe.

    Raises:
        WorkshopError: there is none; names the nearest.
    """
    text = str(path_or_name)
    given = Path(os.path.expanduser(text))
    # From the folder of the notebooks, a path such as data/recipes/x.yaml is meant from the repository's.
    for file in (given, REPOSITORY / given, reading.FOLDER / f"{text}.yaml"):
        if _there(file, Path.is_file):
            return file
    if _there(given, Path.is_dir):
        raise WorkshopError(f"{text} is a folder, not a recipe. Name a YAML file in it, or one of {reading.listed()}.")
    near = difflib.get_close_matches(given.stem, reading.names(), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise WorkshopError(f"There is no recipe {text!r}.{hint} Choose a YAML file, or one of {reading.listed()}.")


def _where(file: Path) -> str:
    """A file as a message names it: from the repository on, where it lies in it."""
    absolute = file.resolve()
    return str(absolute.relative_to(REPOSITORY)) if absolute.is_relative_to(REPOSITORY) else str(file)


def _paths(data: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every field and its value, at any depth; what stands in a list is called by its place."""
    named = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list | tuple) else ()
    for name, value in named:
        yield (*above, str(name)), value
        yield from _paths(value, (*above, str(name)))


def _is_secret(path: tuple[str, ...]) -> bool:
    """A field's name is that of a secret; a slip such as ``max_num_token`` is none."""
    sizes = {*Recipe.model_fields, *Serving.model_fields}
    words = _NEW_WORD.sub("_", path[-1]).lower()
    return bool(_SECRET.search(words)) and f"{_plain(path)}s" not in sizes


def _holds_secret(path: tuple[str, ...], value: Any) -> bool:
    """A field's value, or its name, looks like a key itself."""
    return reading.holds_secret(path[-1]) or (isinstance(value, str) and reading.holds_secret(value))


def _path(error: Any) -> tuple[str, ...]:
    """Which field an error is about; a rule about the whole recipe names its field itself."""
    place = tuple(str(part) for part in error["loc"] if part != "[key]")
    return place or (str(error["msg"]).removeprefix("Value error, ").partition(":")[0],)


def _named(path: tuple[str, ...], lines: Mapping[tuple[str, ...], int]) -> str:
    """A field in a message, with its line where that is known."""
    return ".".join(path) + (f" (line {lines[path]})" if path in lines else "")


def _each_once(errors: list[Any], data: Mapping[str, Any]) -> list[Any]:
    """Without the fields that are missing only because their names are misspelt."""
    unknown = [_path(error) for error in errors if error["type"] == "extra_forbidden"]
    meant = {_meant_field(path) for path in unknown}
    return [error for error in errors if error["type"] != "missing" or ".".join(_path(error)) not in meant]


def _sentence(error: Any, data: Mapping[str, Any]) -> str:
    """One error of the schema as what was found, what is allowed, and what was probably meant."""
    path, found, kind = _path(error), error["input"], error["type"]
    field = path[-1]
    if kind == "missing":
        return f"missing. {_allowed(path, error)}"
    if kind == "extra_forbidden":
        return f"there is no such field. {_nearest_field(path, data)}"
    if kind == "value_error":
        said = str(error["msg"]).removeprefix("Value error, ")
        said = said.removeprefix(f"{field}: ")
        found = data.get(field) if not error["loc"] else found
        return said if said.startswith("There is no") else f"found {_shown(found)}. {said}"
    if kind == "invalid_key":
        return "a field's name is text, and this is none. Write it in quotes, or take it out."
    if path in (("calibration",), ("serving",)):
        part = Calibration if path == ("calibration",) else Serving
        return f"found {_shown(found)}. It has fields of its own: {', '.join(part.model_fields)}."
    hint = _nearest_value(field, found)
    return f"found {_shown(found)}. {_allowed(path, error)}{hint}"


@cache
def _spellings() -> dict[str, Any]:
    """What other tools and people call a field or a value: ``data/recipe_spellings.toml``."""
    return tomllib.loads((DATA / "recipe_spellings.toml").read_text())


def _nearest_field(path: tuple[str, ...], data: Mapping[str, Any]) -> str:
    """What was probably meant by an unknown field, or which there are beside it."""
    if _plain(path) == "max_seq_len":
        return "It is the sum of max_input_len and max_output_len: write those two."
    meant = _meant_field(path)
    if meant and meant in data and "." not in meant:
        return f"Here it is called {meant!r}, which is there already: leave this one out."
    return f"Did you mean {meant!r}?" if meant else f"Allowed are {', '.join(_fields_beside(path))}."


def _plain(path: tuple[str, ...]) -> str:
    """A field's name as a recipe would spell it."""
    return path[-1].lower().replace("-", "_")


def _fields_beside(path: tuple[str, ...]) -> list[str]:
    """The fields that there are where a field stands."""
    parts: dict[str, type[_Part]] = {"serving": Serving, "calibration": Calibration}
    return list(parts.get(path[0] if len(path) > 1 else "", Recipe).model_fields)


def _meant_field(path: tuple[str, ...]) -> str:
    """The field that was probably meant by an unknown one, such as ``serving.port``; empty for none."""
    field, above = _plain(path), path[:-1]
    if field == "max_seq_len":
        return ""
    everywhere = {name: name for name in Recipe.model_fields}
    everywhere |= {name: f"serving.{name}" for name in Serving.model_fields}
    everywhere |= {name: f"calibration.{name}" for name in Calibration.model_fields}
    others = _spellings()["field"]
    if field in others or field in everywhere:
        return str(others.get(field) or everywhere[field])
    here = _fields_beside(path)
    near = difflib.get_close_matches(field, here, n=1)
    # Of what others say only a slip: 'authorization' is not their 'quantization'.
    near = near or difflib.get_close_matches(field, [*everywhere, *others], n=1, cutoff=0.75)
    same = near[0] if near else ""
    own = ".".join((*above, same)) if same in here else ""
    return str(own or everywhere.get(same) or others.get(same, ""))


def _nearest_value(field: str, found: Any) -> str:
    """What was probably meant by a value of a field with few of them."""
    if field == "gpu" and isinstance(found, int | float):
        return _nearest_gpu(str(found))
    choices = {"precision": get_args(Precision), "kv_cache": get_args(KvCache)}.get(field, ())
    if not choices or isinstance(found, Mapping | list):
        return ""
    text = str(found).lower().replace("-", "_")
    if found is None:
        return " For 16 bits write fp16." if field == "kv_cache" else ""
    same = _spellings()["value"][field]
    near = [same[text]] if text in same else []
    near = near or difflib.get_close_matches(text, choices, n=1, cutoff=0.5)
    extra = " (and kv_cache: fp8)" if (field, text) == ("precision", "fp8_kv") else ""
    return f" Did you mean {near[0]!r}{extra}?" if near else ""


def _nearest_gpu(text: str) -> str:
    """The GPU that a number, such as 4090, was probably meant for."""
    try:
        return f" Did you mean {hardware.by_key(text).key!r}?"
    except WorkshopError:
        numbers = {sheet.key.rpartition("-")[2]: sheet.key for sheet in hardware.datasheets()}
        near = difflib.get_close_matches(text, numbers, n=1)
        return f" Did you mean {numbers[near[0]]!r}?" if near else ""


_EXAMPLES = {"max_batch_size": 64, "max_num_tokens": 8192, "tensor_parallel_size": 1, "max_queue": 256}
_DIGITS = re.compile(r"[1-9][0-9]{0,8}")


def _whole(field: str, error: Any) -> str:
    """What a field for a whole number may hold: its range where that was missed, else what one looks like."""
    found = error["input"]
    digits = isinstance(found, str) and found.strip().isdigit()
    quoted = digits and _DIGITS.fullmatch(found.strip())
    if error["type"] in ("greater_than_equal", "less_than_equal") or (digits and not quoted):
        return f"a whole number from 1 to {_MOST:,}"
    return f"a whole number, such as {_EXAMPLES.get(field, 1000)}{', without quotes' if quoted else ''}"


def _allowed(path: tuple[str, ...], error: Any) -> str:
    """What a field may hold, in a sentence."""
    field = path[-1]
    whole = _whole(field, error)
    special = {
        "model": f"'bundled', {', '.join(map(repr, models.known()))}, a folder, or a hub id (owner/name)",
        "revision": "a commit of the hub in quotes, or null",
        "gpu": f"'{CPU}', or one of {', '.join(sheet.key for sheet in hardware.datasheets())}",
        "precision": f"one of {', '.join(TITLES)}",
        "kv_cache": f"one of {', '.join(get_args(KvCache))}",
        "texts": f"a whole number from 1 to {_TEXTS}, the texts of data/calibration",
        "host": "an address, such as 127.0.0.1",
        "port": "a whole number from 0 to 65535, or null for a free one",
        "kv_cache_share": f"a number above 0 and at most 1, such as {KV_SHARE}",
        "kv_cache_tokens": f"{whole}, or null",
        "chunked_prefill": "true or false",
    }
    return f"Write {special.get(field, whole)}."


def _is_folder(name: str) -> bool:
    """True for a folder on this machine; a home that nobody has is none."""
    return _there(Path(os.path.expanduser(name)), Path.is_dir)


def _there(path: Path, kind: Callable[[Path], bool]) -> bool:
    """True if a path is there and of a kind; one that is too long or cannot be looked at is not."""
    try:
        return kind(path)
    except OSError:
        return False


def _shown(found: Any) -> str:
    """A value in a message: short, and never a secret; what has fields of its own may hold one, and is only named."""
    if isinstance(found, Mapping):
        return "a mapping"
    if isinstance(found, list | tuple | set):
        return "a list"
    as_yaml = "null" if found is None else str(found).lower() if isinstance(found, bool) else repr(found)
    text = reading.masked(as_yaml)
    return text if len(text) <= 80 else f"{text[:76]} …"


def _model(name: str) -> str:
    """A model's name as the tables write it.

    Raises:
        ValueError: it is neither known, nor a folder, nor a hub id; says the nearest.
    """
    known = models.known()
    for proper, row in known.items():
        if name.lower() in (proper.lower(), row["repository"].lower()):
            return proper
    if name.lower() == models.BUNDLED:
        return models.BUNDLED
    if not name.strip("./~ \t"):
        raise ValueError(
            "That names no model, but whatever folder a program is run in. Write 'bundled', a name of "
            "data/models.toml, a folder by its own name, or a hub id (owner/name)."
        )
    if _is_folder(name) or _HUB_ID.fullmatch(name):
        return name
    shown = _shown(name)
    if name.startswith(("/", ".", "~")):
        raise ValueError(f"There is no folder {shown} here. Name one that holds config.json and safetensors weights.")
    near = difflib.get_close_matches(name, [*known, models.BUNDLED], n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"There is no model called {shown}.{hint} Choose 'bundled', {', '.join(map(repr, known))}, a folder, or a hub "
        "id (owner/name)."
    )
