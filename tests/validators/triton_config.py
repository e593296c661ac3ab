"""Parse model configurations for Triton with Triton's own protobuf.

Run by the validators' Python: FILE… Prints a JSON object a file, with its problems and what it says.
"""

import importlib.util
import json
import sys
import types
from pathlib import Path

from google.protobuf import json_format, text_format

# The package beside the protobuf imports gRPC, which parsing does not need.
found = importlib.util.find_spec("tritonclient")
package = types.ModuleType("tritonclient.grpc")
package.__path__ = [str(Path(next(iter(found.submodule_search_locations))) / "grpc")]
sys.modules["tritonclient.grpc"] = package
from tritonclient.grpc import model_config_pb2  # noqa: E402


def main() -> None:
    """Tell of each file."""
    for file in sys.argv[1:]:
        try:
            read = text_format.Parse(Path(file).read_text(), model_config_pb2.ModelConfig())
        except text_format.ParseError as error:
            print(json.dumps({"file": file, "problems": [str(error)], "read": None}))
            continue
        told = json_format.MessageToDict(read, preserving_proto_field_name=True)
        print(json.dumps({"file": file, "problems": [], "read": told}))


if __name__ == "__main__":
    main()
