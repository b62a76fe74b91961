"""Short names of general data sets on the Hub, for training data and for `data.mix`."""

DATA_SETS = {
    "alpaca": "tatsu-lab/alpaca",  # CC BY-NC 4.0
    "dolly": "databricks/databricks-dolly-15k",  # CC BY-SA 3.0
}
