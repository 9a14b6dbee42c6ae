"""The judge for people and programs outside Python: `python -m stepcoder.judge`.

`command` judges files of samples, `serve` answers over HTTP; both stand on `stepcoder.sandbox`.
"""
