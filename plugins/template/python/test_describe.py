"""`python3 -m unittest` in this folder."""

import unittest

import describe


class Describe(unittest.TestCase):
    def test_the_median_of_an_even_count_lies_between(self):
        self.assertEqual(describe.describe([4, 1, 2, 3])["median"], 2.5)

    def test_there_is_nothing_to_say_about_nothing(self):
        self.assertIsNone(describe.describe([]))


if __name__ == "__main__":
    unittest.main()
