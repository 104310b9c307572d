"""A taught model as a service over HTTP: what closed models answer today, on the user's own machine.

`worker` scores whatever waits, in batches; `pictures` takes images from requests, within limits; `doors` decides who
may ask; `protocols` has one module for each way of asking; `app` puts them together.
"""
