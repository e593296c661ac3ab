"""A double of TensorRT's Python package: reads the doubles' engines, and refuses what the real one refuses.

Refusals: https://github.com/triton-inference-server/tensorrtllm_backend/issues/531 (another version),
https://github.com/run-llama/llama_index/issues/12318 (another compute capability).
"""

import json
import sys
from enum import IntEnum
from importlib import metadata

import double_engine
import double_machine

__version__ = metadata.version("tensorrt")


class LayerInformationFormat(IntEnum):
    ONELINE = 0
    JSON = 1


class Logger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self, min_severity=WARNING):
        self.min_severity = min_severity

    def error(self, text):
        print(f"[TRT] [E] {text}", file=sys.stderr, flush=True)


class Runtime:
    def __init__(self, logger):
        if not isinstance(logger, Logger):
            raise TypeError("__init__(): incompatible constructor arguments: a tensorrt.Logger is needed")
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine):
        """The engine, or None: TensorRT logs why, and raises nothing."""
        problem = self._problem(bytes(serialized_engine))
        if problem:
            self.logger.error(f"IRuntime::deserializeCudaEngine: {problem}")
            return None
        return ICudaEngine(double_engine.read(serialized_engine))

    def _problem(self, data):
        header = double_engine.read(data)
        if header is None:
            return "Error Code 1: Serialization (Serialization assertion magicTagRead == kMAGIC_TAG failed.)"
        if header["tensorrt"] != __version__ or double_machine.fault("llm", "version-tag"):
            return (
                "Error Code 1: Serialization (Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed."
                "Version tag does not match. Note: Current Version: 240, Serialized Engine Version: 239)"
            )
        here, built = double_machine.gpus()[0]["capability"], header["compute_capability"]
        if double_machine.fault("llm", "incompatible-device"):
            built = [8, 0]
        if here != built:
            dotted = [".".join(map(str, capability)) for capability in (here, built)]
            return (
                "Error Code 6: API Usage Error (The engine plan file is generated on an incompatible device, "
                f"expecting compute {dotted[0]} got compute {dotted[1]}, please rebuild.)"
            )
        if "tensorrt_llm" not in sys.modules:
            return (
                "Error Code 1: Serialization (Serialization assertion creator failed."
                "Cannot deserialize plugin since corresponding IPluginCreator not found in Plugin Registry)"
            )
        return ""


class ICudaEngine:
    """As far as inspecting goes."""

    def __init__(self, header):
        self._header = header
        self.num_layers = len(header["layers"])

    def create_engine_inspector(self):
        return EngineInspector(self._header)


class EngineInspector:
    def __init__(self, header):
        self._header = header

    def get_engine_information(self, format):
        if format != LayerInformationFormat.JSON:
            raise NotImplementedError("the double only tells JSON")
        return json.dumps({"Layers": self._header["layers"], "Bindings": ["input_ids", "logits"]})
