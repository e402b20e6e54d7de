"""Memory and time of a run before its first step.

``trace`` follows the loop's own training step with fake tensors, ``memory`` adds what a trace
cannot see and looks for settings that fit, ``throughput`` turns operations and bytes into time,
``plan`` puts them together for the devices of ``devices``, ``plan_text`` prints.
"""
