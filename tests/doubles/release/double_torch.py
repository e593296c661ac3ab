"""Makes the CPU build of torch look like the release's CUDA build on the machine that ``DOUBLE_MACHINE`` names.

The real torch still does all arithmetic, on the CPU: ``device="cuda"`` is taken for ``"cpu"``, so every figure that is
measured through this is the CPU's. Installed by the release's ``.pth`` file; takes effect when torch is imported.
"""

import sys
from importlib import metadata, util

import double_machine

ENOUGH = 2**28  # what `mem_get_info` calls free: a worker that sizes its buffers by it stays small


class Hook:
    """Lets torch be imported as ever, then changes what it says of itself."""

    def find_spec(self, name, path=None, target=None):
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = util.find_spec("torch")
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            disguise(module)

        spec.loader.exec_module = exec_module
        return spec


def disguise(torch):
    """Version, CUDA version and devices of the release; and ``cuda`` means the CPU."""
    version = metadata.version("torch")
    torch.__version__ = torch.torch_version.TorchVersion(version)
    short = version.partition("+cu")[2]  # "130"
    torch.version.cuda = f"{short[:-1]}.{short[-1]}" if short else None
    gpus = double_machine.gpus()
    answers = {
        "is_available": lambda: bool(gpus),
        "device_count": lambda: len(gpus),
        "get_device_name": lambda device=0: gpus[device or 0]["name"],
        "get_device_capability": lambda device=0: tuple(gpus[device or 0]["capability"]),
        "mem_get_info": lambda device=0: (ENOUGH, gpus[device or 0]["memory"]),
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    # A GPU is fast in 16 bits, where a CPU takes minutes: a model that is moved to it computes in 32.
    torch.nn.Module.cuda = lambda self, device=None: self.float()

    def on_cpu(device):
        named = isinstance(device, (str, torch.device)) and str(device).startswith("cuda")
        return torch.device("cpu") if named else device

    class CudaMeansCpu(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            kwargs = dict(kwargs or {})
            if "device" in kwargs:
                kwargs["device"] = on_cpu(kwargs["device"])
            if getattr(function, "__name__", "") == "cuda":
                return args[0]
            return function(*(on_cpu(a) for a in args), **kwargs)

    CudaMeansCpu().__enter__()


sys.meta_path.insert(0, Hook())
# Transformers would load it for a feature that no one uses here, in every process: seconds each.
sys.modules["sklearn"] = None
