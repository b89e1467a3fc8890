# Recipe: One more autograd node than needed. See tests/recipes/README.md.


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
            with torch.enable_grad():
                first_tensor(arguments).detach().requires_grad_().neg()
            return kernel(*arguments, **options)

        return planted

    wanted_operator, wanted_method = os.environ.get("HOGRAD_PLANT", "derivative_vector_product/double_backward").split(
        "/"
    )
    for operator in hograd_core.operators().values():
        for method in operator.methods.values():
            if wanted_operator in ("*", operator.name) and wanted_method in ("*", method.name):
                object.__setattr__(method, "function", wrap(method.function))


_plant()
