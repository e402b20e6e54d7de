"""Memory and time of a run before its first step.

``trace`` follows the loop's own training step with fake tensors, ``memory`` adds what a trace
cannot see, ``timing`` and ``communication`` turn operations and bytes into time, ``plan`` puts
them together, ``fit`` looks for settings that fit, ``text`` prints.
"""
