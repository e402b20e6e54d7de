"""How good is a rain forecast, how sure is that, and what does it have to beat?

``scores`` has every score by its key (each a function of ``table_scores`` or
``probability_scores``), ``forecast_skill`` offers them as an ``evaluate`` metric, ``bootstrap``
gives them intervals, and ``calibration`` mends the probabilities. ``baselines`` has the forecasts
that need no network, ``reference_skill`` the skill relative to them. Import from these modules: the
package itself imports none of them, so that a baseline doesn't pay for ``evaluate``.
"""
