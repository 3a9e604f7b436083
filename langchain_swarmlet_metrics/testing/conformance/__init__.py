"""A conformance suite for LangChain handlers: the same situations for everybody, judged by what really happened.

Nothing is imported here, because instrumentors patch LangChain and have to come before what is patched. The public
names are those of `langchain_swarmlet_metrics.testing`.
"""
