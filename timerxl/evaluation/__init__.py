"""Scores of rain forecasts, their confidence intervals, and the forecasts to beat.

``scores`` has every score by its key, ``forecast_skill`` offers them as an ``evaluate`` metric,
``bootstrap`` gives them intervals, ``calibration`` corrects the probabilities, ``baselines`` and
``lagged_models`` are the forecasts that need no network. The package itself imports none of them,
so that a baseline doesn't pay for ``evaluate``.
"""
