"""The runner under any Python: `python3 -m unittest` in this folder."""

import sys
import unittest

from chaski_runner import execute, output


class Run(unittest.TestCase):
    def check(self, code, expected, *, is_error=False, stdin="", limit=65536):
        """Runs `code`; its whole answer is `expected`."""
        ending = execute.run(code, stdin, limit, lambda _: None)
        self.assertEqual((ending.text, ending.is_error), (expected, is_error))

    def test_printed_text_comes_before_the_last_value(self):
        self.check("print('a'); 1 + 1", "a\n=> 2")

    def test_a_last_value_of_none_is_not_shown(self):
        self.check("print('a')", "a\n")

    def test_silence_is_said(self):
        self.check("x = 1", "(the program ended without printing anything)")

    def test_both_streams_keep_their_order(self):
        self.check("import sys\nprint(1); print(2, file=sys.stderr); print(3)", "1\n2\n3\n")

    def test_bytes_and_text_share_a_stream(self):
        self.check("import sys\nprint(1); sys.stdout.buffer.write(b'2\\n'); print(3)", "1\n2\n3\n")

    def test_standard_input_is_read_line_by_line(self):
        self.check("print(input() + input())", "ab\n", stdin="a\nb\n")

    def test_an_exception_shows_the_frames_of_the_program_only(self):
        ending = execute.run("import json\nprint('before')\njson.loads('{')", "", 65536, lambda _: None)
        self.assertTrue(ending.is_error)
        self.assertTrue(ending.text.startswith("before\nTraceback (most recent call last):\n"))
        self.assertIn('File "<code>", line 3, in <module>\n    json.loads(', ending.text)
        self.assertNotIn("decoder.py", ending.text)
        self.assertNotIn("execute.py", ending.text)

    def test_a_syntax_error_names_its_line(self):
        ending = execute.run("x = 1\nif x\n  pass", "", 65536, lambda _: None)
        self.assertTrue(ending.is_error)
        self.assertTrue(ending.text.startswith('  File "<code>", line 2'), ending.text)

    def test_a_missing_module_comes_with_a_hint(self):
        ending = execute.run("import no_such_module", "", 65536, lambda _: None)
        self.assertIn("No module named 'no_such_module'", ending.text)
        self.assertIn("hint: only the standard library", ending.text)

    def test_exit_status_zero_is_no_error(self):
        self.check("import sys\nprint('bye'); sys.exit()", "bye\n")

    def test_another_exit_status_is_an_error(self):
        self.check("raise SystemExit(3)", "the program ended itself with exit status 3", is_error=True)

    def test_a_value_without_a_repr_is_an_error_of_the_program(self):
        code = "class A:\n    def __repr__(self): return 3\nA()"
        self.check(code, "TypeError: __repr__ returned non-string (type int)", is_error=True)

    def test_an_exception_without_a_description_is_named(self):
        code = "class E(Exception):\n    def __str__(self): raise self\nraise E"
        ending = execute.run(code, "", 65536, lambda _: None)
        self.assertTrue(ending.is_error)
        self.assertIn("E", ending.text)

    def test_lone_surrogates_become_escapes(self):
        self.check("print('\\udc80'); '\\udc80x'", "\\udc80\n=> '\\udc80x'")
        self.check("print(chr(0xdc80))", "\\udc80\n")

    def test_classes_of_the_program_can_be_pickled(self):
        self.check("import pickle\nclass A: pass\nisinstance(pickle.loads(pickle.dumps(A())), A)", "=> True")

    def test_coroutines_run_without_sockets(self):
        code = "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 7\nasyncio.run(f())"
        self.check(code, "=> 7")

    def test_nothing_is_left_in_the_streams_afterwards(self):
        before = sys.stdin, sys.stdout, sys.stderr
        execute.run("import sys; sys.stdout = None; raise ValueError", "", 65536, lambda _: None)
        self.assertEqual(before, (sys.stdin, sys.stdout, sys.stderr))

    def test_an_answer_stays_below_its_limit(self):
        for limit in (1024, 4096, 65536):
            code = "print('x' * 1000000)\nraise ValueError('y' * 1000000)"
            ending = execute.run(code, "", limit, lambda _: None)
            self.assertLessEqual(len(ending.text.encode()), limit)
            self.assertTrue(ending.truncated)


    def test_bytes_that_are_no_text_stay_below_the_limit_too(self):
        code = "import sys\nfor _ in range(40): sys.stdout.buffer.write(b'\\xff' * 1000)"
        ending = execute.run(code, "", 65536, lambda _: None)
        self.assertLessEqual(len(ending.text.encode()), 65536)
        self.assertTrue(ending.truncated)

    def test_one_huge_print_is_not_kept_whole(self):
        recorder = output.Recorder(1024, lambda _: None)
        recorder.write(b"a" * 600 + b"b" * 10_000_000 + b"c" * 600)
        self.assertLessEqual(sum(map(len, recorder._tail)), 1024)
        text = recorder.text()
        self.assertTrue(text.startswith("a" * 512) and text.endswith("c" * 512), text[:40])
        self.assertIn(f"[... {10_000_000 + 1200 - 1024} bytes of output left out here ...]", text)


class Emitted(unittest.TestCase):
    def test_each_line_is_emitted_when_it_ends(self):
        emitted = []
        execute.run("print('a'); print('b', end='')", "", 65536, emitted.append)
        self.assertEqual(emitted, ["a\n", "b"])

    def test_a_flood_is_emitted_up_to_the_budget_and_kept_at_both_ends(self):
        emitted = []
        ending = execute.run("for i in range(100000): print(i)", "", 65536, emitted.append)
        self.assertEqual(sum(map(len, emitted)), output.MAX_EMITTED_BYTES)
        self.assertTrue(ending.text.startswith("0\n1\n"))
        self.assertTrue(ending.text.endswith("99998\n99999\n"))
        self.assertIn("bytes of output left out here", ending.text)

    def test_a_character_cut_between_two_writes_is_whole_in_the_end(self):
        emitted = []
        code = "import sys\nb = 'é\\n'.encode()\nfor i in range(3): sys.stdout.buffer.write(b[i:i+1])"
        ending = execute.run(code, "", 65536, emitted.append)
        self.assertEqual((ending.text, "".join(emitted)), ("é\n", "é\n"))


if __name__ == "__main__":
    unittest.main()
