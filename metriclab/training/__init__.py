"""From assembled parts to a finished run.

In: a `Recipe` and a `RunFolder`. Out: `experiment` yields what happens, step by step, and leaves checkpoints, logged
numbers and a result in the folder; `fit` is its loop alone, a `StepResult` a step.
"""
