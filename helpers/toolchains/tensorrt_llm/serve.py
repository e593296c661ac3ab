"""What ``trtllm-serve`` is told beside its options, and what it is refused before it starts (notebook 07). Pure."""

from helpers.errors import WorkshopError
from helpers.toolchains.base import Engine
from helpers.toolchains.serving import ServeOptions
from helpers.toolchains.sizes import Sizes
from helpers.toolchains.tensorrt_llm import commands
from helpers.toolchains.tensorrt_llm.kv import side_effects

SETTINGS = "llm_options.yaml"
"""The file for what no option of ``trtllm-serve`` says."""


def require_sizes(engine: Engine, options: ServeOptions, built: Sizes) -> None:
    """Refuse sizes that the engine was not built for, and chunked prompts that it cannot read.

    Args:
        engine: what is served.
        options: what is asked for.
        built: what the engine was built for.

    Raises:
        WorkshopError: names the size, and says what to do.
    """
    for name, wanted in vars(options.sizes).items():
        most = getattr(built, name)
        if wanted > most:
            raise WorkshopError(
                f"{name} is {wanted:,}, and this engine was built for at most {most:,}. Serve it with that, or build "
                "another engine: raising a limit means a new build."
            )
    if options.chunked_prefill and not side_effects(engine.precision, engine.kv).chunked:
        raise WorkshopError(
            f"chunked_prefill is on, and an engine with {engine.full_title} cannot read a prompt in chunks. Switch it "
            "off, and choose max_num_tokens of at least max_input_len."
        )


def settings_file(options: ServeOptions, block_reuse: bool) -> dict[str, str]:
    """The file of settings that the server needs, by name; none where its options say everything."""
    settings = commands.serve_settings(options.kv_share, options.chunked_prefill, block_reuse)
    if not settings:
        return {}
    import yaml

    return {SETTINGS: yaml.safe_dump(settings, sort_keys=False)}
