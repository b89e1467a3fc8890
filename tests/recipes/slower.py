# Recipe: ten percent more time (or HOGRAD_PLANT_FACTOR) and nothing else. See tests/recipes/README.md.


def _plant():
    import functools
    import os
    import time

    import hograd_core

    wanted_operator, wanted_method = os.environ.get("HOGRAD_PLANT", "derivative_vector_product/double_backward").split(
        "/"
    )
    factor = float(os.environ.get("HOGRAD_PLANT_FACTOR", "1.12"))  # of the kernel alone, not of the operator around it
    depth = [0]

    def wrap(kernel, slowed):
        @functools.wraps(kernel)
        def planted(*arguments, **options):
            depth[0] += 1
            start, used = time.perf_counter_ns(), time.thread_time_ns()
            try:
                return kernel(*arguments, **options)
            finally:
                depth[0] -= 1
                if slowed and not depth[0]:  # a kernel that others call slows nobody but itself
                    # What others took of the core is none of the kernel's work; the CPU's clock is a system call,
                    # thousands of which would slow the other side too.
                    worked = min(time.perf_counter_ns() - start, time.thread_time_ns() - used)
                    until = time.perf_counter_ns() + worked * (factor - 1)
                    while time.perf_counter_ns() < until:
                        pass

        return planted

    for operator in hograd_core.operators().values():
        for method in operator.methods.values():
            slowed = wanted_operator in ("*", operator.name) and wanted_method in ("*", method.name)
            object.__setattr__(method, "function", wrap(method.function, slowed))


_plant()
