"""Everything that runs in a sandboxed process, beside the program. Nothing here is trusted.

The judge starts `worker` and imports none of this. A worker loads the other modules from their
files as the package `_sandbox.guest`, without the judge's modules; hence the relative imports.
"""
