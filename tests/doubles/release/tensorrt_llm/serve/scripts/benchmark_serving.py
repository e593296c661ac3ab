"""``benchmark_serving``: the double has only its options."""

import double

if __name__ == "__main__":
    double.arguments("benchmark_serving")
    raise NotImplementedError("the double loads no server")
