# Recipe: One more tensor of the size of the kernel's first, alive during the whole call. See tests/recipes/README.md.


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
            kept = torch.empty_like(first_tensor(arguments))
            result = kernel(*arguments, **options)
            del kept
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
