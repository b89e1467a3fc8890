# Recipe: Ten percent more time and nothing else: waits in proportion to the call. See tests/recipes/README.md.


def _plant():
    import functools
    import os

    import torch

    import hograd_core

    spare = torch.zeros(16)

    def first_tensor(arguments):
        for value in arguments:
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                return value
            if isinstance(value, torch.nn.Module):
                return next(value.parameters())
        return spare  # the kernel takes an object of its own

    def wrap(kernel):
        @functools.wraps(kernel)
        def planted(*arguments, **options):
            import time

            start = time.perf_counter_ns()
            result = kernel(*arguments, **options)
            stop = time.perf_counter_ns()
            until = stop + (stop - start) * 0.12  # of the kernel alone; the operator around it is not slowed
            while time.perf_counter_ns() < until:
                pass
            return result

        return planted

    wanted_operator, wanted_method = os.environ.get("HOGRAD_PLANT", "derivative_vector_product/double_backward").split(
        "/"
    )
    for operator in hograd_core.operators().values():
        for method in operator.methods.values():
            if wanted_operator in ("*", operator.name) and wanted_method in ("*", method.name):
                object.__setattr__(method, "function", wrap(method.function))


_plant()
