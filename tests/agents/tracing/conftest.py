"""JAX as an engine's worker has it: on the processor, with one thread."""

import os

# Read when JAX begins, which is after this.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)
