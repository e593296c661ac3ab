"""Read an InferenceService with the models of the kserve package, and its pod with Kubernetes' own schema.

Run by the validators' Python: VERSION FILE… Prints a JSON object a file, with its problems. Only kserve.models is
imported: the package's own __init__ brings a server, a client and gRPC with it, which no model needs.
"""

import functools
import importlib.util
import json
import re
import sys
import types
from pathlib import Path

import kubernetes_validate
import kubernetes_validate.utils
import yaml

found = importlib.util.find_spec("kserve")
package = types.ModuleType("kserve")
package.__path__ = list(found.submodule_search_locations)
sys.modules["kserve"] = package
import kserve.models  # noqa: E402

# The schemas of a version are one file of several megabytes, which it reads anew for each document.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)

PLAIN = {"str": str, "int": int, "float": (int, float), "bool": bool}


def read(data, kind: str, where: str, pods: dict):
    """The object that a piece of YAML stands for, made by kserve's own class.

    What Kubernetes describes, not kserve, is put into ``pods`` as the pod that has it.
    """
    if match := re.fullmatch(r"(list\[|dict\(str, )(.*)[\])]", kind):
        return many(data, match, where, pods)
    if kind in PLAIN:
        if not isinstance(data, PLAIN[kind]) or (isinstance(data, bool) and kind != "bool"):
            raise ValueError(f"{where} is {data!r}, and {kind} is wanted")
        return data
    model = getattr(kserve.models, kind, None)
    if model is None:
        pods[where.rpartition(".")[2].split("[")[0]] = data
        return data
    if not isinstance(data, dict):
        raise ValueError(f"{where} is {data!r}, and a mapping is wanted")
    names = {written: name for name, written in model.attribute_map.items()}
    unknown = [key for key in data if key not in names]
    if unknown:
        raise ValueError(f"{where} has no field {', '.join(unknown)}")
    made = {
        names[key]: read(value, model.openapi_types[names[key]], f"{where}.{key}", pods) for key, value in data.items()
    }
    return model(**made)


def many(data, match, where, pods):
    """A list or a mapping of one kind."""
    inner = match[2]
    if match[1] == "list[":
        if not isinstance(data, list):
            raise ValueError(f"{where} is {data!r}, and a list is wanted")
        if getattr(kserve.models, inner, None) is None and inner not in PLAIN:
            pods[where.rpartition(".")[2]] = data
            return data
        return [read(value, inner, f"{where}[{number}]", pods) for number, value in enumerate(data)]
    if not isinstance(data, dict):
        raise ValueError(f"{where} is {data!r}, and a mapping is wanted")
    return {key: read(value, inner, f"{where}[{key}]", pods) for key, value in data.items()}


def problems(document: dict, version: str) -> list[str]:
    """What is wrong with an InferenceService; nothing where it can be read."""
    pods: dict = {}
    try:
        read(document, "V1beta1InferenceService", "", pods)
        # Fields of a pod that kserve has as plain values are a pod's all the same.
        plain = ("nodeSelector", "automountServiceAccountToken", "enableServiceLinks")
        predictor = document["spec"]["predictor"]
        pods |= {name: predictor[name] for name in plain if name in predictor}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": pods.pop("metadata"), "spec": pods}
        kubernetes_validate.validate(pod, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    except (ValueError, KeyError) as error:
        return [str(error)]
    return []


def main() -> None:
    """Tell of each file."""
    for file in sys.argv[2:]:
        document = yaml.safe_load(Path(file).read_text())
        print(json.dumps({"file": file, "problems": problems(document, sys.argv[1]), "read": document}))


if __name__ == "__main__":
    main()
