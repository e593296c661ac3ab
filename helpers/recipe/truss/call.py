"""How a model that was deployed with Truss is called (notebook 07). Nothing here calls it."""

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.cards import Shown, boxed, paragraph, preformatted
from helpers.recipe.truss.facts import facts

if TYPE_CHECKING:
    from helpers.recipe.schema import Recipe

_QUESTION = "Who was the chef Alexis Soyer?"
_TOKENS = 64


@dataclass(frozen=True, repr=False)
class PredictCall(Shown):
    """How a deployed model is asked: with curl, and with the ``openai`` package.

    The key is read from the environment when the call is made, and is in neither.

    Attributes:
        curl: a shell command.
        python: a program that streams the answer.
        note: what has to be in the environment, and what of it is there.
    """

    curl: str
    python: str
    note: str

    def __str__(self) -> str:
        return "\n".join(["With curl:", self.curl, "", "With the openai package:", self.python, "", self.note])

    def _repr_html_(self) -> str:
        python = f"<strong>With the openai package</strong>{preformatted(self.python)}"
        return boxed("With curl", preformatted(self.curl) + python + paragraph(self.note))


def predict_call(recipe: "Recipe | str | Path") -> PredictCall:
    """How the deployed model of a recipe is called: Baseten's OpenAI-compatible URL, its key from the environment.

    Args:
        recipe: itself, its file or its name.

    Raises:
        WorkshopError: it is no recipe.
    """
    from helpers.recipe.schema import given

    recipe = given(recipe)
    known, tokens = facts()["call"], min(_TOKENS, recipe.max_output_len)
    body = {"model": recipe.name, "messages": [{"role": "user", "content": _QUESTION}], "max_tokens": tokens}
    return PredictCall(_curl(known, body), _python(known, body), _note(known))


def _curl(known: Mapping[str, Any], body: Mapping[str, Any]) -> str:
    url = str(known["url"]).format(model_id=f"${{{known['model_id']}}}")
    return (
        f'curl "{url}/chat/completions" \\\n'
        f'  -H "{known["header"]} ${known["key"]}" -H "Content-Type: application/json" \\\n'
        f"  -d {shlex.quote(json.dumps(body))}"
    )


def _python(known: Mapping[str, Any], body: Mapping[str, Any]) -> str:
    url = str(known["url"]).format(model_id=f"{{os.environ['{known['model_id']}']}}")
    return "\n".join(
        [
            "import os",
            "from openai import OpenAI",
            "",
            f'url = f"{url}"',
            f'client = OpenAI(base_url=url, api_key=os.environ["{known["key"]}"])',
            "answer = client.chat.completions.create(",
            *(f"    {name}={json.dumps(value)}," for name, value in body.items()),
            "    stream=True,",
            ")",
            "for chunk in answer:",
            '    print(chunk.choices[0].delta.content or "", end="", flush=True)',
        ]
    )


def _note(known: Mapping[str, Any]) -> str:
    """Which variables the call needs and which of them are set; never what they hold."""
    names = [str(known["key"]), str(known["model_id"])]
    there = [name for name in names if os.environ.get(name)]
    state = "Neither is set here." if not there else f"Set here: {' and '.join(there)}."
    return (
        f"It needs {names[0]} and {names[1]} in the environment; the model's page shows the id. {state} "
        f"published: the URL ({known['source']}). Nothing was called."
    )
