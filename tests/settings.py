"""Settings that tests of other things than skill put over the quickstart recipe."""

# All features, one region and one label a window, in one pass over the data: the fewest steps to
# think through.
ONE_LABEL = (
    "data.synthetic.version=1 data.exclude_features=null data.labels=last "
    "data.regions_together=none model.region_mixing=attention "
    "loss.next_patch_weight=0 train.ema=null train.epochs=1 train.batch_size=64"
)
