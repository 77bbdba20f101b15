"""Train and measure the networks that tell body parts apart on X-ray pictures.

The package reads pictures with the same steps as the router that serves the network; it knows nothing of Orthanc.
"""
