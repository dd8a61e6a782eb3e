# SPDX-License-Identifier: Apache-2.0
"""`mayfly image`: what skopeo, umoci and Python's tarfile write becomes an ext4 image, and what is hostile does not."""

import gzip
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tarfile
import time

import harness
from image_layout import make_layer, write_layout


class ImageTest(harness.Case):
    def setUp(self):
        super().setUp()
        self.store = self.dir / "images"
        self.work.env["MAYFLY_IMAGE_DIR"] = str(self.store)

    def image(self, *arguments, **options):
        return self.mayfly("image", *arguments, **options)

    def imported(self, *arguments, **options):
        end = self.image("import", *arguments, **options)
        self.assertEqual((end.code, end.err), (0, b""), end)
        return end

    def assert_refused(self, end, *words, left=()):
        self.assertEqual((end.code, end.out), (125, b""), end)
        for word in words:
            self.assertIn(word, end.err.decode())
        self.assertEqual(self.stored(), sorted(left))

    def stored(self):
        return sorted(str(path.relative_to(self.store)) for path in self.store.rglob("*"))

    def debugfs(self, name, command):
        return self.tool("debugfs", "-R", command, self.store / name / "rootfs.ext4").out.decode()

    def tool(self, *command):
        end = self.work.run(["env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *command])
        self.assertEqual(end.code, 0, end)
        return end

    def assert_clean(self, name):
        self.tool("e2fsck", "-fn", self.store / name / "rootfs.ext4")

    def test_an_image_is_imported_listed_inspected_and_removed(self):
        layout = write_layout(self.dir / "web", make_layer(("bin", None), ("bin/sh", b"#!")),
                              config={"Cmd": ["sh"], "Env": ["A=b"]})
        end = self.imported(layout)
        self.assertRegex(end.out.decode(), r"\Aweb sha256:[0-9a-f]{12}, 7 files, 1 MiB\n\Z")
        self.assert_clean("web")
        # It may hold secrets.
        self.assertEqual((self.store / "web").stat().st_mode, 0o40700)
        self.assertEqual((self.store / "web/rootfs.ext4").stat().st_mode, 0o100600)
        record = json.loads(self.image("inspect", "web").out)
        digest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
        self.assertEqual(record["digest"], digest)
        self.assertEqual((record["config"]["Cmd"], record["config"]["Env"]), (["sh"], ["A=b"]))
        self.assertRegex(self.image("ls").out.decode(), r"(?m)^web +sha256:[0-9a-f]{12} +amd64 +7 +1 +\d+$")
        self.assertEqual(json.loads(self.image("ls", "--json").out), {"web": record})
        self.assertEqual(self.image("rm", "web").out, b"web deleted\n")
        self.assertEqual(self.stored(), [])
        for command in ("inspect", "rm"):
            self.assert_refused(self.image(command, "web"), "web", "IMAGE_NOT_FOUND")

    def test_every_form_of_tar_and_of_source_gives_the_same_files(self):
        long_name = "d" * 120 + "/" + "n" * 200
        for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            for packed in (None, "gzip"):
                with self.subTest(form=form, packed=packed):
                    name = f"i{form}{packed or ''}".lower()
                    layer = make_layer((long_name, {"data": b"long", "uid": 3_000_000, "mtime": 1.5}),
                                       ("caf\u00e9", b"x"), ("link", {"type": tarfile.SYMTYPE, "linkname": "t" * 150}),
                                       form=form)
                    layout = write_layout(self.dir / name, layer, packed=packed)
                    archive = self.dir / f"{name}.tar"
                    self.tool("tar", "-C", layout, "-cf", archive, ".")
                    self.imported(layout, "--name", "one")
                    self.imported(archive, "--name", "two")
                    self.imported("-", "--name", "three", stdin=gzip.compress(archive.read_bytes()))
                    first = (self.store / "one/rootfs.ext4").read_bytes()
                    for other in ("two", "three"):
                        self.assertEqual(harness.sha256((self.store / other / "rootfs.ext4").read_bytes()),
                                         harness.sha256(first))
                    self.assert_clean("one")
                    self.assertIn("User: 3000000", self.debugfs("one", f"stat /{long_name}"))
                    self.assertIn("Size: 150", self.debugfs("one", "stat /link"))
                    self.assertIn("caf\u00e9", self.debugfs("one", "ls -p /"))

    def test_what_skopeo_and_umoci_write_is_read(self):
        layout = self.dir / "made"
        self.tool("umoci", "init", "--layout", layout)
        self.tool("umoci", "new", "--image", f"{layout}:v1")
        tree = self.dir / "tree"
        (tree / "srv/gone").mkdir(parents=True)
        (tree / "srv/page").write_text("one")
        self.tool("umoci", "insert", "--rootless", "--image", f"{layout}:v1", tree / "srv", "/srv")
        (tree / "srv/page").write_text("two")
        self.tool("umoci", "insert", "--rootless", "--image", f"{layout}:v1", tree / "srv/page", "/srv/page")
        self.tool("umoci", "insert", "--rootless", "--image", f"{layout}:v1", "--whiteout", "/srv/gone")
        self.tool("umoci", "config", "--image", f"{layout}:v1", "--config.env", "GREETING=hello",
                  "--config.workingdir", "/srv", "--config.cmd", "cat", "--config.cmd", "page")
        for target in (f"oci-archive:{self.dir}/oci.tar:v1", f"docker-archive:{self.dir}/docker.tar:a/b:v1"):
            self.tool("skopeo", "--insecure-policy", "copy", f"oci:{layout}:v1", target)
        for name, source in (("layout", layout), ("oci", self.dir / "oci.tar"), ("docker", self.dir / "docker.tar")):
            with self.subTest(name):
                self.imported(source, "--name", name)
                self.assert_clean(name)
                self.assertIn("two", self.debugfs(name, "cat /srv/page"))
                self.assertNotIn("gone", self.debugfs(name, "ls -p /srv"))
                config = json.loads(self.image("inspect", name).out)["config"]
                self.assertEqual((config["Cmd"], config["WorkingDir"]), (["cat", "page"], "/srv"))
                self.assertIn("GREETING=hello", config["Env"])
        self.assert_refused(self.image("import", layout, "--ref", "v2", "--name", "x"), "v2", "IMAGE_PLATFORM",
                            left=self.stored())

    def test_hostile_layers_are_refused_and_leave_nothing(self):
        cases = (
            ("climbs", [("../../etc/evil", b"x")], "IMAGE_PATH"),
            ("hides", [("a/../../.wh.x", b"")], "IMAGE_PATH"),
            ("linked", [("l", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"})], "IMAGE_PATH"),
            ("through", [("f", b""), ("f/x", b"")], "IMAGE_PATH"),
            ("loops", [("l", {"type": tarfile.SYMTYPE, "linkname": "l/l"}), ("l/x", b"")], "IMAGE_LIMIT"),
            ("named", [("n" * 256, b"")], "IMAGE_LIMIT"),
            ("deep", [("d/" * 600 + "x", b"")], "IMAGE_LIMIT"),
            ("owned", [("u", {"uid": 1 << 33})], "IMAGE_ENTRY"),
        )
        for name, members, reason in cases:
            with self.subTest(name):
                end = self.image("import", write_layout(self.dir / name, make_layer(*members)))
                self.assert_refused(end, reason, "layer 1 of 1")
        # Through a link that leads out: it is the image's own /etc that gets the file.
        outside = write_layout(self.dir / "out", make_layer(
            ("out", {"type": tarfile.SYMTYPE, "linkname": f"{self.dir}"}), ("out/evil", b"evil")))
        self.imported(outside)
        self.assertFalse((self.dir / "evil").exists())
        self.assertIn("evil", self.debugfs("out", f"cat {self.dir}/evil"))

    def test_any_byte_that_changes_or_is_missing_is_noticed(self):
        layout = write_layout(self.dir / "sound", make_layer(("f", random.Random(7).randbytes(20_000))), packed="gzip")
        draw = random.Random(1)
        for blob in sorted((layout / "blobs/sha256").iterdir()):
            sound = blob.read_bytes()
            at = draw.randrange(len(sound))
            for damaged in (sound[:at] + bytes([sound[at] ^ 1 << draw.randrange(8)]) + sound[at + 1:], sound[:at],
                            sound + b"\0"):
                blob.write_bytes(damaged)
                self.assert_refused(self.image("import", layout), "IMAGE_")
            blob.write_bytes(sound)
        self.imported(layout)

    def test_a_disk_that_is_full_leaves_the_old_image(self):
        self.imported(write_layout(self.dir / "img", make_layer(("small", b"x"))))
        before = harness.sha256((self.store / "img/rootfs.ext4").read_bytes())
        big = write_layout(self.dir / "big", make_layer(("big", bytes(8 << 20))))
        # No file may grow beyond 4 MiB, as if the disk had no more; the signal for it is ignored.
        limited = ["sh", "-c", 'trap "" XFSZ; ulimit -f 8192; exec "$@"', "sh", harness.MAYFLY, "image", "import", big,
                   "--name", "img"]
        end = self.work.run(limited)
        self.assert_refused(end, "NO_SPACE", left=["img", "img/config.json", "img/rootfs.ext4"])
        self.assertEqual(harness.sha256((self.store / "img/rootfs.ext4").read_bytes()), before)

    def test_a_small_file_system_that_fills_up_is_left_empty(self):
        layout = write_layout(self.dir / "big", make_layer(("big", b"\1" * (6 << 20))))
        for mib in (1, 4, 9):  # There is no room for the file, barely, and not for the image beside it.
            with self.subTest(mib=mib):
                script = 'mount -t tmpfs -o size="$1"m tmpfs "$2" && "$3" image import "$4"; echo $?; ls -A "$2"'
                self.store.mkdir(exist_ok=True)
                end = self.tool("unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", mib, self.store,
                                harness.MAYFLY, layout)
                self.assertEqual(end.out, b"125\n", end)
                self.assertIn(b"NO_SPACE", end.err)

    def test_an_interrupted_import_leaves_nothing(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            child = self.work.popen([harness.MAYFLY, "image", "import", "-", "--name", "img"], stdin=subprocess.PIPE)
            harness.wait_until(lambda: any(name.startswith(".draft") for name in self.stored()), "the import works", 20)
            child.send_signal(number)
            self.assertEqual(child.wait(harness.PATIENCE), 128 + number)
            self.assertEqual(self.stored(), [])

    def test_an_import_that_is_killed_leaves_the_old_image_and_the_next_one_tidies_up(self):
        self.imported(write_layout(self.dir / "img", make_layer(("small", b"x"))))
        before = harness.sha256((self.store / "img/rootfs.ext4").read_bytes())
        # It waits for the rest of its input, with a draft in the store.
        child = self.work.popen([harness.MAYFLY, "image", "import", "-", "--name", "img"], stdin=subprocess.PIPE)
        harness.wait_until(lambda: any(name.startswith(".draft") for name in self.stored()), "the import works", 20)
        child.send_signal(signal.SIGKILL)
        child.wait()
        self.assertEqual(harness.sha256((self.store / "img/rootfs.ext4").read_bytes()), before)
        self.assertTrue(any(name.startswith(".draft") for name in self.stored()))
        self.imported(self.dir / "img", "--name", "other")
        self.assertEqual([name for name in self.stored() if name.startswith(".draft")], [])

    def test_an_ordinary_user_imports_files_of_any_owner(self):
        if os.geteuid() != 0:
            raise self.skipTest("only root can become somebody else; whoever runs this is an ordinary user already")
        home = pathlib.Path(shutil.copytree(write_layout(self.dir / "src", make_layer(
            ("dev/null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3, "uid": 0}),
            ("own", {"data": b"x", "uid": 1234, "gid": 5, "mode": 0o4711}))), self.dir / "home" / "src")).parent
        for path in (self.dir, home, *home.rglob("*")):
            path.chmod(0o755)
        os.chown(home, 65534, 65534)
        env = {key: text for key, text in self.work.env.items() if not key.startswith(("MAYFLY", "XDG"))}
        end = self.work.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all",
                             harness.MAYFLY, "image", "import", home / "src", "--name", "theirs"],
                            env=env | {"HOME": str(home)})
        self.assertEqual((end.code, end.err), (0, b""), end)
        self.store = home / ".local/share/mayfly/images"
        self.assert_clean("theirs")
        self.assertIn("User:  1234   Group:     5", self.debugfs("theirs", "stat /own"))
        self.assertIn("Mode:  04711", self.debugfs("theirs", "stat /own"))
        self.assertIn("Device major/minor number: 01:03", self.debugfs("theirs", "stat /dev/null"))

    def test_a_run_of_an_image_that_cannot_be_is_refused_before_anything_starts(self):
        self.imported(write_layout(self.dir / "empty", make_layer(("x", b""))))
        refused = (
            (["--image", "none", "--", "true"], "IMAGE_NOT_FOUND"),
            (["--image", "empty"], "IMAGE_COMMAND"),
            (["--image", "../x", "--", "true"], "IMAGE_NAME"),
            (["--image", "empty", "--rootfs", "x", "--", "true"], "--rootfs"),
            (["--writable", "--", "true"], "--image"),
        )
        for arguments, word in refused:
            with self.subTest(word):
                end = self.mayfly("run", *arguments)
                self.assertEqual((end.code, end.out), (125, b""), end)
                self.assertIn(word, end.err.decode())
        self.assertEqual(self.stored(), ["empty", "empty/config.json", "empty/rootfs.ext4"])
        end = self.image("import", self.dir / "empty", "--name", "big", "--size", 64)
        self.assertEqual(end.code, 0, end)
        self.assertEqual((self.store / "big/rootfs.ext4").stat().st_size, 64 << 20)
        self.assertLess((self.store / "big/rootfs.ext4").stat().st_blocks * 512, 1 << 20)

    def test_a_large_layer_takes_the_time_of_its_bytes(self):
        members = [(f"d{i % 50}/f{i}", b"x" * 300) for i in range(20_000)] + [("large", bytes(64 << 20))]
        layout = write_layout(self.dir / "large", make_layer(*members))
        start = time.monotonic()
        self.imported(layout)
        harness.print_figures("import", files=20_000, mib=64, seconds=round(time.monotonic() - start, 2))
        self.assert_clean("large")
        self.assertEqual(json.loads(self.image("inspect", "large").out)["files"], 20_000 + 50 + 1 + 5)
