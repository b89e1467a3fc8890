"""Limits of cost in other people's tests: ``@pytest.mark.hograd(peak="40 MiB", ops=4)`` and the fixture ``hograd``.

    marks --_marks--> limits ─┐
                              ├─_verdict─> why it is over, by operator and phase
    fn    --_figures-> figures┘                     _growth: figures of several sizes -> a law, and whether it is kept

Here and in the plugin nothing imports torch before a test calls the fixture, and the figures need nothing but torch.
Growth and times need what ``hograd[bench]`` brings.
"""
