"""The CPU server (``python -m helpers.serving.app``): ``trtllm-serve``'s HTTP surface over OpenVINO's batching.

Where a CPU is all there is, this stands in for ``trtllm-serve`` of TensorRT-LLM 1.2, so that clients, load generators
and the notebooks that use them are the same on both. Two processes: this one speaks HTTP, and
``helpers/workers/openvino_serve.py`` runs the engine.

- :mod:`~helpers.serving.app.protocol`: what a request may hold, and what is refused with which words.
- :mod:`~helpers.serving.app.text`: tokens and text.
- :mod:`~helpers.serving.app.engine`: the engine's process, from here.
- :mod:`~helpers.serving.app.answers`: from tokens to the answers' JSON, whole or as a stream.
- :mod:`~helpers.serving.app.metrics`: ``/metrics``.
- :mod:`~helpers.serving.app.http`: the routes.

What differs from ``trtllm-serve``, on purpose:

- A full queue answers 429 with ``Retry-After``, and a body that is too large 413. The real one lets its queue grow.
- Numbers must be numbers: ``"max_tokens": "5"`` is refused here and read as 5 there.
- An unknown route or method is answered in the same flat error shape as everything else.
- ``max_tokens`` left out means 16 at ``/v1/completions``, which is what OpenAI documents for it; the real one may go on
  to the longest sequence that it was built for. At ``/v1/chat/completions`` it means the rest of that length on both.
- The model's name is not checked, as in the real one's source; answers carry the name that was sent.
"""
