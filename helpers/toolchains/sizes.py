"""What an engine and a server are made for: lengths, requests at once, tokens in a step (notebooks 03 and 07)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """What an engine can hold at most.

    Attributes:
        max_batch_size: requests that run at once.
        max_num_tokens: tokens that go through one step, all requests together.
        max_input_len: tokens in a prompt.
        max_seq_len: tokens in a prompt and its answer.
    """

    max_batch_size: int
    max_num_tokens: int
    max_input_len: int
    max_seq_len: int

    def options(self) -> dict[str, int]:
        """The same as options of ``trtllm-build``."""
        return {f"--{name}": value for name, value in vars(self).items()}

    def folder(self) -> str:
        """What an engine's folder adds to its name where these are not the usual ones."""
        return f"b{self.max_batch_size}-in{self.max_input_len}-seq{self.max_seq_len}-t{self.max_num_tokens}"
