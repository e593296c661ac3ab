"""``Mapping``: which rank of how many."""

from tensorrt_llm.settings import Settings, settings


@settings("tensorrt_llm.mapping.Mapping")
class Mapping(Settings):
    def check(self):
        ranks = self.tp_size * self.pp_size * self.cp_size
        if ranks != self.world_size:
            raise ValueError(
                f"world_size must equal to tp_size * pp_size * cp_size, but got {self.world_size} != "
                f"{self.tp_size} * {self.pp_size} * {self.cp_size}"
            )
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must be < world_size, but got {self.rank} >= {self.world_size}")
