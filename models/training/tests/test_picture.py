import contextlib
import io
import json
import os
import tempfile
import unittest

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from bodypart_training import __main__ as command
from bodypart_training import picture
from bodypart_training.picture import PictureError, Spec

from . import synthetic


class PictureTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def read(self, stored, **tags):
        return picture.read(synthetic.dicom(os.path.join(self.folder, "x.dcm"), stored, **tags))

    def test_linear_window_follows_the_standard(self):
        stored = np.arange(256).reshape(16, 16)
        got = self.read(stored, WindowCenter=100, WindowWidth=51)
        self.assertEqual(got.voi, "window")
        # PS3.3 C.11.2.1.2.1: 0 at and below 74.5, 1 above 124.5, ((x-99.5)/50+0.5) between
        self.assertEqual(got.pixels.ravel()[74], 0)
        self.assertAlmostEqual(float(got.pixels.ravel()[75]), (75 - 99.5) / 50 + 0.5, places=6)
        self.assertAlmostEqual(float(got.pixels.ravel()[112]), 0.75, places=6)
        self.assertEqual(got.pixels.ravel()[125], 1)

    def test_exact_and_sigmoid_windows(self):
        stored = np.arange(256).reshape(16, 16)
        exact = self.read(stored, WindowCenter=100, WindowWidth=50, VOILUTFunction="LINEAR_EXACT")
        self.assertAlmostEqual(float(exact.pixels.ravel()[100]), 0.5, places=6)
        self.assertAlmostEqual(float(exact.pixels.ravel()[110]), 0.7, places=6)
        sigmoid = self.read(stored, WindowCenter=100, WindowWidth=50, VOILUTFunction="SIGMOID")
        self.assertAlmostEqual(float(sigmoid.pixels.ravel()[110]), 1 / (1 + np.exp(-0.8)), places=6)

    def test_a_shutter_is_black_and_not_counted(self):
        stored = np.arange(100).reshape(10, 10) + 1000
        edges = dict(ShutterLeftVerticalEdge=3, ShutterRightVerticalEdge=8, ShutterUpperHorizontalEdge=2, ShutterLowerHorizontalEdge=6)
        for inverse in ("MONOCHROME2", "MONOCHROME1"):
            got = self.read(stored, PhotometricInterpretation=inverse, ShutterShape="RECTANGULAR", **edges)
            free = np.zeros((10, 10), dtype=bool)
            free[1:6, 2:8] = True
            self.assertEqual(float(got.pixels[~free].max()), 0)
            self.assertEqual((float(got.pixels[free].min()), float(got.pixels[free].max())), (0, 1))
        nothing = self.read(stored, ShutterShape="CIRCULAR", CenterOfCircularShutter=[900, 900], RadiusOfCircularShutter=3)
        np.testing.assert_array_equal(nothing.pixels, self.read(stored).pixels)

    def test_a_collimator_frames_the_percentiles(self):
        stored = np.arange(100).reshape(10, 10) + 1000
        polygon = dict(CollimatorShape="POLYGONAL", VerticesOfThePolygonalCollimator=[1, 1, 1, 10, 6, 10, 6, 1])
        got = self.read(stored, **polygon)
        self.assertEqual(float(got.pixels[4, 9]), 1)  # the greatest value above row 6
        self.assertEqual(float(got.pixels[9, 0]), 1)  # shown, beyond the window
        small = self.read(stored, CollimatorShape="CIRCULAR", CenterOfCircularCollimator=[2, 2], RadiusOfCircularCollimator=1)
        np.testing.assert_array_equal(small.pixels, self.read(stored).pixels)  # less than a tenth

    def test_pixels_that_are_not_square_keep_the_aspect(self):
        stored = np.arange(200).reshape(10, 20)
        self.assertEqual(self.read(stored, PixelSpacing=[0.2, 0.2], PixelAspectRatio=[2, 1]).aspect, 1)
        high = self.read(stored, ImagerPixelSpacing=[0.4, 0.2])
        self.assertEqual(high.aspect, 2)
        self.assertFalse(np.any(picture.tensor(high, Spec(size=40, pad=-9)) == -9))
        self.assertEqual(int(np.sum(picture.tensor(self.read(stored), Spec(size=40, pad=-9))[:, 0] != -9)), 20)

    def test_first_of_several_windows_counts(self):
        stored = np.arange(256).reshape(16, 16)
        one = self.read(stored, WindowCenter=100, WindowWidth=50)
        two = self.read(stored, WindowCenter=[100, 10], WindowWidth=[50, 5])
        np.testing.assert_array_equal(one.pixels, two.pixels)

    def test_rescale_comes_before_the_window(self):
        stored = np.arange(256).reshape(16, 16)
        plain = self.read(stored, WindowCenter=100, WindowWidth=50)
        rescaled = self.read(stored, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=100 * 2 - 1000.5, WindowWidth=99)
        np.testing.assert_allclose(plain.pixels, rescaled.pixels, atol=1e-6)

    def test_unusable_windows_give_way_to_percentiles(self):
        stored = synthetic.scene(40, 30, 4000)
        wanted = self.read(stored)
        self.assertEqual(wanted.voi, "percentile")
        for centre, width in ((2000, 0), (2000, -5), (90000, 10), (-90000, 10)):
            got = self.read(stored, WindowCenter=centre, WindowWidth=width)
            self.assertEqual(got.voi, "percentile", (centre, width))
            np.testing.assert_array_equal(got.pixels, wanted.pixels)

    def test_percentiles_are_nearest_rank_over_every_pixel(self):
        stored = np.arange(1000).reshape(40, 25)
        got = self.read(stored).pixels.ravel()
        self.assertEqual(got[4], 0)  # the 5th of 1,000 values
        self.assertGreater(got[5], 0)
        self.assertEqual(got[994], 1)  # the 995th
        self.assertLess(got[993], 1)

    def test_monochrome1_is_monochrome2_of_the_inverted_film(self):
        for bits in (12, 16):
            top = (1 << bits) - 1
            stored = synthetic.scene(50, 37, top)
            for tags in ({}, {"WindowCenter": top / 2 + 0.5, "WindowWidth": top + 1}):
                two = self.read(stored, BitsStored=bits, HighBit=bits - 1, **tags)
                one = self.read(top - stored, BitsStored=bits, HighBit=bits - 1, PhotometricInterpretation="MONOCHROME1", **tags)
                np.testing.assert_allclose(picture.tensor(one, Spec()), picture.tensor(two, Spec()), atol=0.01)

    def test_inverse_presentation_shape_inverts(self):
        stored = synthetic.scene(20, 20, 4000)
        np.testing.assert_allclose(self.read(stored, PresentationLUTShape="INVERSE").pixels, 1 - self.read(stored).pixels, atol=1e-6)

    def test_padding_is_black_and_counts_in_no_statistic(self):
        stored = synthetic.scene(40, 40, 3000) + 100
        bare = self.read(stored, PhotometricInterpretation="MONOCHROME1")
        framed = np.full((40, 60), 65535)
        framed[:, 10:50] = stored
        got = self.read(framed, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=65535)
        np.testing.assert_array_equal(got.pixels[:, 10:50], bare.pixels)
        self.assertTrue((got.pixels[:, :10] == 0).all())
        framed[:, :5] = 65000
        ranged = self.read(framed, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=65535, PixelPaddingRangeLimit=65000)
        np.testing.assert_array_equal(ranged.pixels, got.pixels)

    def test_signed_pixels_and_overlay_bits(self):
        stored = synthetic.scene(20, 20, 1000)
        signed = self.read(stored - 500, PixelRepresentation=1)
        np.testing.assert_allclose(signed.pixels, self.read(stored).pixels, atol=1e-6)
        overlay = self.read(stored + (1 << 12), BitsStored=12, HighBit=11)
        np.testing.assert_array_equal(overlay.pixels, self.read(stored).pixels)

    def test_voi_lut_where_there_is_no_window(self):
        item = Dataset()
        item.LUTDescriptor, item.LUTData = [4, 10, 8], [0, 51, 102, 255]
        item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "US"
        got = self.read(np.array([[0, 10, 11], [12, 13, 99]]), VOILUTSequence=Sequence([item]))
        self.assertEqual(got.voi, "lut")
        np.testing.assert_allclose(got.pixels, [[0, 0, 0.2], [0.4, 1, 1]], atol=1e-6)

    def test_modality_lut_replaces_rescale(self):
        item = Dataset()
        item.LUTDescriptor, item.LUTData = [3, 0, 16], [5, 500, 1000]
        item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "US"
        window = {"WindowCenter": 500, "WindowWidth": 1000, "VOILUTFunction": "LINEAR_EXACT"}
        got = self.read(np.array([[0, 1], [2, 7]]), ModalityLUTSequence=Sequence([item]), **window)
        np.testing.assert_allclose(got.pixels, [[0.005, 0.5], [1, 1]], atol=1e-6)

    def test_blank_plate(self):
        blank = self.read(np.full((30, 20), 1234))
        self.assertTrue(blank.blank)
        made = picture.tensor(blank, Spec(size=32))
        self.assertTrue(np.isfinite(made).all())
        self.assertEqual(np.abs(made).max(), 0)
        self.assertFalse(self.read(synthetic.scene(30, 20, 1000)).blank)

    def test_letterbox_geometry(self):
        self.assertEqual(picture.fitted(300, 200, 160), (160, 107))  # 106.67
        self.assertEqual(picture.fitted(320, 125, 160), (160, 63))  # 62.5 rounds away from zero
        self.assertEqual(picture.fitted(9000, 10, 160), (160, 1))
        got = picture.tensor(picture.Picture(synthetic.scene(200, 300, 255).astype(np.float32) / 255, False, "none"), Spec(pad=-9))
        self.assertTrue((got[:26] == -9).all())  # (160-107)//2
        self.assertTrue((got[26:133] != -9).all())
        self.assertTrue((got[133:] == -9).all())
        self.assertAlmostEqual(float(got[26:133].mean()), 0, places=4)
        self.assertAlmostEqual(float(got[26:133].std()), 1, places=4)

    def test_resize_weights(self):
        line = np.array([[0, 3, 6, 9, 12]], dtype=np.float32)
        np.testing.assert_allclose(picture.resize(line, 2, 1), [[(0 + 3 + 3) / 2.5, (3 + 9 + 12) / 2.5]], rtol=1e-6)
        np.testing.assert_allclose(picture.resize(np.array([[0, 1]], dtype=np.float32), 4, 1), [[0, 0.25, 0.75, 1]], rtol=1e-6)

    def test_mean_std_normalisation(self):
        content = picture.Picture(np.array([[0.25, 0.75]], dtype=np.float32), False, "none")
        got = picture.tensor(content, Spec(size=2, normalisation="mean_std", mean=0.5, std=0.25, pad=7))
        np.testing.assert_allclose(got, [[-1, 1], [7, 7]])

    def test_png_and_jpeg(self):
        grey = synthetic.scene(64, 48, 255).astype(np.uint8)
        for name, tolerance in (("a.png", 1e-6), ("a.jpg", 0.02)):
            path = os.path.join(self.folder, name)
            Image.fromarray(grey).save(path, **({"quality": 95} if name.endswith("jpg") else {}))
            got = picture.read(path)
            self.assertEqual((got.width, got.height, got.voi), (48, 64, "none"))
            np.testing.assert_allclose(got.pixels, grey / 255, atol=tolerance)
        colour = np.zeros((2, 2, 3), dtype=np.uint8)
        colour[0, 0] = (255, 0, 0)
        Image.fromarray(colour).save(os.path.join(self.folder, "c.png"))
        self.assertAlmostEqual(float(picture.read(os.path.join(self.folder, "c.png")).pixels[0, 0]), 0.299, places=6)

    def test_what_cannot_be_read_says_why(self):
        stored = synthetic.scene(8, 8, 100)
        cases = (
            ({"syntax": "1.2.840.10008.1.2.4.70", "PixelData": encapsulate([b"\0\0"])}, "1.2.840.10008.1.2.4.70"),
            ({"NumberOfFrames": 2}, "(0028,0008)"),
            ({"Rows": 0}, "(0028,0010)"),
            ({"PixelData": b"\0\0"}, "length"),
        )
        for tags, said in cases:
            with self.assertRaisesRegex(PictureError, said.replace("(", r"\(").replace(")", r"\)")):
                self.read(stored, **tags)
        with self.assertRaises(PictureError):
            picture.decode(b"no picture at all")

    def test_command_writes_the_tensor(self):
        path = synthetic.dicom(os.path.join(self.folder, "x.dcm"), synthetic.scene(50, 40, 4000))
        with contextlib.redirect_stdout(io.StringIO()) as out:
            status = command.main(["picture", "--size", "32", "--out", self.folder, path, os.path.join(self.folder, "absent.dcm")])
        first, second = (json.loads(line) for line in out.getvalue().splitlines())
        self.assertEqual(status, 0)
        self.assertEqual((first["width"], first["height"], first["voi"], first["error"]), (40, 50, "percentile", None))
        self.assertIn("absent.dcm", second["error"])
        written = np.fromfile(os.path.join(self.folder, "0.f32"), dtype="<f4").reshape(32, 32)
        np.testing.assert_array_equal(written, picture.tensor(picture.read(path), Spec(size=32)))


if __name__ == "__main__":
    unittest.main()
