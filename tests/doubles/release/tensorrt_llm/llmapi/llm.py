"""``tensorrt_llm.LLM``: the PyTorch backend, of which the double has only the signatures."""

import double


def only_described(name):
    """A method that the contract describes and the double does not have."""

    @double.entry(name)
    def method(self, *positional, **keywords):
        raise NotImplementedError(f"the double has no {name}")

    return method


@double.entry("tensorrt_llm.LLM", ValueError, named=9)
class LLM:
    def __init__(self, model, *positional, **keywords):
        raise NotImplementedError("the double has no PyTorch backend")

    generate = only_described("tensorrt_llm.LLM.generate")
    generate_async = only_described("tensorrt_llm.LLM.generate_async")
    get_stats = only_described("tensorrt_llm.LLM.get_stats")
    shutdown = only_described("tensorrt_llm.LLM.shutdown")
