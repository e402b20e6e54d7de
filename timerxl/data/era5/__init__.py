"""Weather files (NetCDF, GRIB, Zarr) and tables to one series.parquet with its series.json."""
