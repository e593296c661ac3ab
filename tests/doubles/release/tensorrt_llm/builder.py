"""``BuildConfig``."""

from tensorrt_llm.settings import Settings, settings


@settings("tensorrt_llm.BuildConfig", ValueError)
class BuildConfig(Settings):
    pass
