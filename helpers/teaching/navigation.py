"""The way from one notebook to the others, made from the files there are and typed nowhere."""

from helpers.teaching.notebooks import Notebook, named, notebooks


def around(name: str) -> dict[str, str]:
    """Links to the notebook before, to the first and to the one after, as a notebook's card shows them.

    The addresses are files beside the notebook: JupyterLab opens them, and pages lead to their own
    (``tools.notebook_pages.relinked``).

    Args:
        name: a notebook's name or number.

    Raises:
        WorkshopError: there is none.
    """
    every = notebooks()
    at = every.index(named(name))
    found: dict[str, str] = {}
    if at > 1:
        found |= _link("Previous", every[at - 1])
    if at > 0:
        found |= _link("Start", every[0])
    return found | following(name)


def following(name: str) -> dict[str, str]:
    """A link to the notebook after this one; nothing after the last.

    Raises:
        WorkshopError: there is none of this name.
    """
    every = notebooks()
    after = every.index(named(name)) + 1
    return _link("Next", every[after]) if after < len(every) else {}


def length_text(notebook: Notebook) -> str:
    """The minutes to plan, and how many of them are the core, where its sections say so."""
    core = sum(section.minutes for section in notebook.sections if section.core)
    if not notebook.sections or core >= notebook.minutes:
        return f"{notebook.minutes} minutes"
    return f"{notebook.minutes} minutes; {core:g} for the core"


def _link(way: str, to: Notebook) -> dict[str, str]:
    return {f"{way}: {to.number} {to.title}": f"{to.name}.ipynb"}
