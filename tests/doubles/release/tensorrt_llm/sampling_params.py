"""``SamplingParams``."""

from tensorrt_llm.settings import Settings, settings


@settings("tensorrt_llm.SamplingParams")
class SamplingParams(Settings):
    @property
    def greedy(self):
        return self.top_k in (None, 1) and self.top_p in (None, 0)

    def check(self):
        if (self.n or 1) > 1 and self.greedy:
            raise ValueError(f"Greedy decoding in the LLM API does not allow multiple returns, but n is {self.n}")
