//! Fake environments: a launcher, a Python that answers as interpreter.py and synthesis.py do, distributions,
//! a Node. Each fake program logs its start in the sandbox's log.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::machine::{copy_program, on_this_machine, output};
use crate::support::run::Call;
use crate::support::sandbox::Sandbox;

/// Templates that `pcluster build-image` of 3.1.3 made with CDK 1.204.0, and with 1.153.0.
pub(crate) const GOOD: &str = include_str!("../fixtures/template-good.json");
pub(crate) const BAD: &str = include_str!("../fixtures/template-bad.json");

/// A fake Python, written in sh. For each task (report the identity, build a template, run the launcher,
/// …), it runs a different file in `fake`. This file can use $sentinel, if the task has one, and "$@".
const PYTHON: &str = r#"#!/bin/sh
log=@LOG@
fake=@FAKE@
while [ $# -gt 0 ]; do
    case $1 in
    -c) echo identity >>"$log"; sentinel=$3; . "$fake/identity"; exit ;;
    */synthesis.py)
        sentinel=$2; request=$3; shift 3; what=synth; [ $# -gt 0 ] || what=start
        echo "$what" >>"$log"; . "$fake/$what"; exit ;;
    */client.py) echo client >>"$log"; sentinel=$2; request=$3; . "$fake/client"; exit ;;
    */compile.py) echo compile >>"$log"; sentinel=$2; shift 2; . "$fake/compile"; exit ;;
    */bundled_pip.py) echo bundled_pip >>"$log"; sentinel=$2; . "$fake/bundled_pip"; exit ;;
    *.whl/pip) module=pip; shift; echo "wheel $1" >>"$log"; . "$fake/pip"; exit ;;
    -m) module=$2; shift 2; echo "$module $1" >>"$log"; . "$fake/$module"; exit ;;
    -*) shift ;;
    *) shift; echo "real $*" >>"$log"; . "$fake/real"; exit ;;
    esac
done
"#;

/// A console script with the sh trampoline that installers write.
pub(crate) fn trampoline(python: &Path) -> String {
    format!("#!/bin/sh\n'''exec' \"{}\" \"$0\" \"$@\"\n' '''\n{ENTRY}", python.display())
}

/// The text of a console script from pip, below the `#!` line or the trampoline.
pub(crate) const ENTRY: &str = r"# -*- coding: utf-8 -*-
import re
import sys
from pcluster.cli.entrypoint import main
if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\.pyw|\.exe)?$', '', sys.argv[0])
    sys.exit(main())
";

/// Prints a file as the answer.
const ANSWER: &str = r#"printf '\n%s\n' "$sentinel"; cat "$fake/@FILE@.json"; printf '\n%s\n' "$sentinel""#;

/// Prints `identity.json`. The first directory in PYTHONPATH becomes the second entry of `sysPath`, unless
/// `flags` contains `-E`.
const IDENTITY: &str = r#"read -r answer <"$fake/identity.json"
case $answer in *'"-E"'*) PYTHONPATH= ;; esac
before=${answer%%'"sysPath":['*} after=${answer#*'"sysPath":['}
if [ -n "$PYTHONPATH" ]; then answer="$before\"sysPath\":[${after%%,*},\"${PYTHONPATH%%:*}\",${after#*,}"; fi
printf '\n%s\n%s\n%s\n' "$sentinel" "$answer" "$sentinel""#;

/// A fake environment of aws-parallelcluster 3.1.3 with CDK 1.204.0, in the directory `root`.
#[derive(Debug)]
pub(crate) struct Environment<'a> {
    sandbox: &'a Sandbox,
    pub(crate) root: PathBuf,
}

impl Sandbox {
    /// A fake environment in `venv`, and a fake Node. Both are on the default PATH.
    pub(crate) fn environment(&self) -> Environment<'_> {
        node(self);
        self.environment_in("venv")
    }

    pub(crate) fn environment_in(&self, directory: &str) -> Environment<'_> {
        let new = Environment { sandbox: self, root: self.path(directory) };
        let python = PYTHON
            .replace("@LOG@", &format!("'{}'", self.path("log").display()))
            .replace("@FAKE@", &format!("'{}'", new.path("fake").display()));
        // `bin/python` is a binary, as a real Python is. If `bin/python` were a script, the shim would start
        // the launcher to find out which Python it runs.
        fs::create_dir_all(new.path("bin")).unwrap();
        copy_program(&compiled("python", PYTHON_C), &new.path("bin/python"));
        self.script(new.path("bin/python.sh"), python);
        self.script(new.path("bin/pcluster"), trampoline(&new.path("bin/python")));
        new.is(&[]);
        new.builds(GOOD);
        new.starts(&json!({"kind": "started", "startupMs": 1}));
        new.has_bundled_pip(&Value::Null);
        new.really("echo \"the real pcluster: $*\"");
        new.installs(
            "aws-parallelcluster",
            "3.1.3",
            "Requires-Dist: aws-cdk.core (~=1.137)\nRequires-Dist: aws-cdk.aws-imagebuilder\n",
        );
        new.cdk("1.204.0");
        new.installs("setuptools", "80.9.0", "");
        self.write(new.path("site/pcluster/__init__.py"), "");
        self.write(new.path("site/aws_cdk/aws_imagebuilder/__init__.py"), "");
        new
    }

    /// A guarded call with an image configuration, which is written if it does not exist yet.
    pub(crate) fn build_image(&self) -> Call {
        let configuration = self.path("work/image.yaml");
        if !configuration.exists() {
            self.write(
                &configuration,
                "Build:\n  InstanceType: c5.xlarge\n  ParentImage: ami-0123456789abcdef0\n",
            );
        }
        self.pcluster(["build-image", "--image-configuration", "image.yaml", "--image-id", "my-image"])
    }
}

/// The output of the fake real pcluster for [`Sandbox::build_image`].
pub(crate) const REAL_OUTPUT: &str =
    "the real pcluster: build-image --image-configuration image.yaml --image-id my-image\n";
/// The line that the fake Python writes to the fakes' log when it runs the real pcluster for
/// [`Sandbox::build_image`].
pub(crate) const REAL: &str = "real build-image --image-configuration image.yaml --image-id my-image";

impl Environment<'_> {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Sets the identity that the environment's Python reports: the default, with these keys added
    /// or replaced.
    pub(crate) fn is(&self, more: &[(&str, Value)]) {
        let mut answer = json!({
            "executable": self.path("bin/python"),
            "version": "3.9.7",
            "cacheTag": "cpython-39",
            "prefix": self.path(""),
            "flags": [],
            "sysPath": [self.path("bin"), self.path("site")],
        });
        for (key, value) in more {
            answer[key] = value.clone();
        }
        self.sandbox.write(self.path("fake/identity.json"), answer.to_string());
        self.identifies(IDENTITY);
    }

    /// Sets the sh code that the environment's Python runs when the shim asks for the identity.
    pub(crate) fn identifies(&self, sh: &str) {
        self.sandbox.write(self.path("fake/identity"), sh);
    }

    /// Sets what synthesis.py answers when it is asked for a template.
    pub(crate) fn answers(&self, answer: &Value) {
        self.sandbox.write(self.path("fake/synth.json"), answer.to_string());
        self.synthesizes(&ANSWER.replace("@FILE@", "synth"));
    }

    /// Sets what synthesis.py answers when it is asked whether pcluster starts.
    pub(crate) fn starts(&self, answer: &Value) {
        self.sandbox.write(self.path("fake/start.json"), answer.to_string());
        self.sandbox.write(self.path("fake/start"), ANSWER.replace("@FILE@", "start"));
    }

    /// Makes synthesis.py answer with this template.
    pub(crate) fn builds(&self, template: &str) {
        self.answers(&built(template));
    }

    /// Sets the sh code that the environment's Python runs when the shim asks for a template.
    pub(crate) fn synthesizes(&self, sh: &str) {
        self.sandbox.write(self.path("fake/synth"), sh);
    }

    /// Sets the answer of client.py, which asks AWS.
    pub(crate) fn aws_answers(&self, answer: &Value) {
        self.sandbox.write(self.path("fake/client.json"), answer.to_string());
        self.asks_aws(&ANSWER.replace("@FILE@", "client"));
    }

    /// Sets the sh code that the environment's Python runs when the shim asks AWS.
    pub(crate) fn asks_aws(&self, sh: &str) {
        self.sandbox.write(self.path("fake/client"), sh);
    }

    /// Sets the path of the pip wheel that the environment's Python bundles.
    pub(crate) fn has_bundled_pip(&self, wheel: &Value) {
        self.sandbox.write(self.path("fake/bundled_pip.json"), json!({ "wheel": wheel }).to_string());
        self.sandbox.write(self.path("fake/bundled_pip"), ANSWER.replace("@FILE@", "bundled_pip"));
    }

    /// Sets both answers of client.py: the inventory, and the results of the changes to AMIs.
    pub(crate) fn has_in_aws(&self, inventory: &Value, results: &Value) {
        self.sandbox.write(self.path("fake/inventory.json"), inventory.to_string());
        self.sandbox
            .write(self.path("fake/apply.json"), json!({"kind": "applied", "results": results}).to_string());
        let chosen =
            "case $(cat \"$request\") in *'\"kind\":\"apply\"'*) kind=apply ;; *) kind=inventory ;; esac\n";
        self.sandbox.write(self.path("fake/client"), chosen.to_owned() + &ANSWER.replace("@FILE@", "$kind"));
    }

    /// Sets the sh code that the real pcluster runs.
    pub(crate) fn really(&self, sh: &str) {
        self.sandbox.write(self.path("fake/real"), sh);
    }

    /// Installs a distribution in place of any other version of it.
    pub(crate) fn installs(&self, name: &str, version: &str, more: &str) {
        let site = self.path("site");
        fs::create_dir_all(&site).unwrap();
        for entry in site.read_dir().unwrap().flatten() {
            let file_name = entry.file_name().into_string().unwrap();
            if file_name.starts_with(&format!("{name}-")) && file_name.ends_with(".dist-info") {
                fs::remove_dir_all(entry.path()).unwrap();
            }
        }
        let directory = site.join(format!("{name}-{version}.dist-info"));
        self.sandbox.write(
            directory.join("METADATA"),
            format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{more}\nText.\n"),
        );
        self.sandbox.write(directory.join("INSTALLER"), "pip\n");
        self.sandbox.write(directory.join("RECORD"), "");
    }

    /// Installs this version of the fake CDK packages.
    pub(crate) fn cdk(&self, version: &str) {
        for name in ["aws-cdk.core", "aws-cdk.aws-imagebuilder"] {
            self.installs(name, version, "");
        }
    }

    /// Breaks the environment: an advisory matches it, and the template that it builds has the fault that the
    /// advisory describes.
    pub(crate) fn is_broken(&self) {
        self.cdk("1.153.0");
        self.builds(BAD);
    }
}

/// The answer of synthesis.py with this template, for the call [`Sandbox::build_image`].
pub(crate) fn built(template: &str) -> Value {
    let template: Value = serde_json::from_str(template).unwrap();
    let tags = json!({
        "parallelcluster:image_id": "my-image",
        "parallelcluster:image_name": "my-image",
        "parallelcluster:version": "3.1.3",
    });
    let name = "my-image {{ imagebuilder:buildDate }}";
    let asked = json!({"name": name, "tags": tags, "regions": [], "launchPermission": null});
    json!({"kind": "template", "template": template, "asked": asked})
}

/// Adds a fake Node, which logs its start and prints the first line of the file `says` next to it.
pub(crate) fn node(sandbox: &Sandbox) {
    let path = sandbox.path("node/node");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    copy_program(&compiled("node", NODE_C), &path);
    sandbox.write("node/says", "v18.20.4\n");
}

/// The path of a program that is compiled from C, once for all tests.
fn compiled(name: &'static str, source: &str) -> PathBuf {
    static COMPILED: OnceLock<Mutex<(TempDir, BTreeSet<&str>)>> = OnceLock::new();
    let compiled = COMPILED.get_or_init(|| Mutex::new((TempDir::new().unwrap(), BTreeSet::new())));
    let mut compiled = compiled.lock().unwrap();
    let path = compiled.0.path().join(name);
    if compiled.1.insert(name) {
        let file = path.with_extension("c");
        fs::write(&file, source).unwrap();
        output(&on_this_machine("cc"), &["-o".as_ref(), path.as_os_str(), file.as_os_str()]);
    }
    path
}

/// A program that runs the script `python.sh` next to itself, whether the program was started by a path or
/// found on PATH.
const PYTHON_C: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    static char path[4096], script[4200];
    char *directories = getenv("PATH"), *directory = 0;
    (void)argc;
    if (strchr(argv[0], '/')) snprintf(path, sizeof path, "%s", argv[0]);
    else for (directory = strtok(strdup(directories), ":"); directory; directory = strtok(0, ":")) {
        snprintf(path, sizeof path, "%s/%s", directory, argv[0]);
        if (!access(path, X_OK)) break;
    }
    *strrchr(path, '/') = 0;
    snprintf(script, sizeof script, "%s/python.sh", path);
    argv[0] = script;
    execv(script, argv);
    return 126;
}
"#;

const NODE_C: &str = r#"
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    char path[4096], line[256];
    (void)argc;
    *strrchr(argv[0], '/') = 0;
    snprintf(path, sizeof path, "%s/../log", argv[0]);
    FILE *log = fopen(path, "a");
    fputs("node\n", log);
    fclose(log);
    snprintf(path, sizeof path, "%s/says", argv[0]);
    FILE *says = fopen(path, "r");
    if (fgets(line, sizeof line, says)) fputs(line, stdout);
    return 0;
}
"#;
