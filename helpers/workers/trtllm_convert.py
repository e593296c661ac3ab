"""Worker: Hugging Face weights to an INT8 weight-only checkpoint, by TensorRT-LLM's own conversion (notebook 04).

Runs on the release's own Python and imports nothing of ``helpers``. ModelOpt, which writes every other checkpoint here,
has no such format. Nothing is calibrated: each output channel of a matrix gets the scale that its own weights need.
"""

import argparse
from pathlib import Path


def main() -> None:
    """Convert, one rank after the other, in one process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of Hugging Face weights")
    parser.add_argument("--tp-size", type=int, default=1, help="number of ranks to split over")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    print("@progress 0/1 importing TensorRT-LLM", flush=True)
    from tensorrt_llm.llmapi import QuantAlgo, QuantConfig
    from tensorrt_llm.mapping import Mapping
    from tensorrt_llm.models import LLaMAForCausalLM

    arguments.output.mkdir(parents=True, exist_ok=True)
    for rank in range(arguments.tp_size):
        print(f"@progress {rank}/{arguments.tp_size} converting rank {rank}", flush=True)
        model = LLaMAForCausalLM.from_hugging_face(
            arguments.model,
            dtype="float16",
            mapping=Mapping(world_size=arguments.tp_size, rank=rank, tp_size=arguments.tp_size),
            quant_config=QuantConfig(quant_algo=QuantAlgo.W8A16),
        )
        model.save_checkpoint(str(arguments.output), save_config=rank == 0)
        del model  # before the next rank is loaded


if __name__ == "__main__":
    main()
