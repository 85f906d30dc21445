"""Models that are on this machine already: in the caches and folders of other programs.

What lies where is decided by pure readers (``repos``, ``folders``, ``hub``, ``llama_cache``,
``ollama``): listings and small texts in, found values out. ``look`` alone touches the disk.
"""
