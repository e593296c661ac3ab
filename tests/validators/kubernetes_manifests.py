"""Hold every YAML document of some files against Kubernetes' own schemas, in their strict form.

Run by the validators' Python: VERSION FIELDS FILE… Prints a JSON object a file, with its problems. FIELDS is JSON: the
fields of kinds that no schema of Kubernetes describes.
"""

import functools
import json
import sys
from pathlib import Path

import kubernetes_validate
import kubernetes_validate.utils
import yaml

# The schemas of a version are one file of several megabytes, which it reads anew for each document.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)


def problems(document: dict, version: str, fields: dict) -> list[str]:
    """What is wrong with one document, a sentence each."""
    kind = document.get("kind", "")
    if kind not in fields:
        return against_schema(document, version)
    extra = [key for key in document if key not in ("apiVersion", "kind", "metadata", "spec")]
    extra += [f"spec.{key}" for key in document["spec"] if key not in fields[kind]]
    found = [f"unknown {', '.join(extra)}"] if extra else []
    return found + (behaviour(document["spec"], version) if kind == "ScaledObject" else [])


def behaviour(spec: dict, version: str) -> list[str]:
    """KEDA hands this part on to a HorizontalPodAutoscaler as it is: it has a schema."""
    made = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "of-keda"},
        "spec": {
            "scaleTargetRef": spec["scaleTargetRef"],
            "maxReplicas": spec.get("maxReplicaCount"),
            **spec["advanced"]["horizontalPodAutoscalerConfig"],
        },
    }
    return against_schema(made, version)


def against_schema(document: dict, version: str) -> list[str]:
    """What the schema of a document's kind says of it."""
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError as error:
        return [error.message]
    return []


def main() -> None:
    """Tell of each file."""
    version, fields, *files = sys.argv[1], json.loads(sys.argv[2]), *sys.argv[3:]
    for file in files:
        documents = list(yaml.safe_load_all(Path(file).read_text()))
        found = [f"{one.get('kind')}: {told}" for one in documents for told in problems(one, version, fields)]
        print(json.dumps({"file": file, "problems": found, "read": documents}))


if __name__ == "__main__":
    main()
