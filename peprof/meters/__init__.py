"""Counters of joules and what is told beside them: NVIDIA's management library, and RAPL of processors.

Never imports torch: a process of its own polls with it, which must start at once and stay small.
"""
