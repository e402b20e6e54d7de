"""How good is a rain forecast, and what does it have to beat?

``scores`` holds the numbers, ``forecast_skill`` offers them as an ``evaluate`` metric, and
``baselines`` the forecasts that need no network. Import from these modules: the package itself
imports none of them, so that a baseline doesn't pay for ``evaluate``.
"""
