"""What fences generated code in: fork servers, kernel rules, and the talk between a candidate and its tests.

The modules here use the standard library only. Most of them run in the fork servers, which get their sources over a
pipe and never see the package's folder (`launch`).
"""
