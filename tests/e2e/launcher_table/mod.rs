//! Every kind of launcher, first with good and then with broken packages. In a test that is named after a
//! tool, the tool writes the launcher, or the test writes what the tool would write. Some other tests write
//! a script like those that people write. The shim reports the Python that runs. It stops calls with broken
//! packages, but never a call with good packages, and notices what changes after the first check.

mod place;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use place::{
    Answer, Packages, Place, Venv, base, customize, library, link_all, link_cdk, link_packages, prefix_of,
    spy_in, tools, wheel, write,
};

use crate::environments::Environment;
use crate::support::machine::{on_this_machine, write_script};

/// One row of the table: `make` writes a launcher that leads to the good packages, and `change` makes the
/// launcher lead to the broken packages.
#[track_caller]
fn row(answer: Answer, make: impl FnOnce(&mut Place), change: impl FnOnce(&mut Place)) {
    let mut place = Place::new();
    make(&mut place);
    place.is_reported(Packages::Good, answer);
    place.is_guarded(Packages::Good, answer);
    change(&mut place);
    place.truth(Packages::Broken);
    place.is_guarded(Packages::Broken, answer);
    place.is_reported(Packages::Broken, answer);
}

/// `head`, and after it the console script that pip 19.3 to 25.1 writes.
fn console_script(head: &str) -> String {
    format!(
        "{head}# -*- coding: utf-8 -*-\nimport re\nimport sys\nfrom pcluster.cli.entrypoint import main\n\
         if __name__ == '__main__':\n    sys.argv[0] = re.sub(r'(-script\\.pyw|\\.exe)?$', '', sys.argv[0])\n    \
         sys.exit(main())\n"
    )
}

/// A path, quoted for a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display())
}

// --- installers -----------------------------------------------------------------------

#[test]
fn pip_in_a_venv() {
    row(
        Answer::Known,
        |place| {
            let venv = place.venv_by_pip("venv", Packages::Good);
            place.launcher_is(venv.pcluster());
        },
        |place| link_packages(Packages::Broken, &Venv(place.path("venv")).site()),
    );
}

#[test]
#[ignore = "long"]
fn pip_in_a_venv_whose_path_has_a_space() {
    row(
        Answer::Known,
        |place| {
            let venv = place.venv_by_pip("a venv", Packages::Good);
            place.launcher_is(venv.pcluster());
        },
        |place| link_packages(Packages::Broken, &Venv(place.path("a venv")).site()),
    );
}

fn uv_venv(place: &mut Place, arguments: &[&str]) -> Venv {
    let venv = Venv(place.path("venv"));
    let uv = tools().join("bin/uv");
    let mut all: Vec<&OsStr> = ["venv", "--no-project", "--python"].map(OsStr::new).into();
    let (base, wheel, python) = (base(), wheel(), venv.python());
    all.push(base.as_os_str());
    all.extend(arguments.iter().map(OsStr::new));
    all.push(venv.0.as_os_str());
    place.tool(&uv, &all, &[]);
    let install = ["pip", "install", "--no-deps", "--python"].map(OsStr::new);
    place.tool(&uv, &[&install[..], &[python.as_os_str(), wheel.as_os_str()]].concat(), &[]);
    link_packages(Packages::Good, &venv.site());
    venv
}

#[test]
fn uv_in_a_venv() {
    row(
        Answer::Known,
        |place| {
            let venv = uv_venv(place, &[]);
            place.launcher_is(venv.pcluster());
        },
        |place| link_packages(Packages::Broken, &Venv(place.path("venv")).site()),
    );
}

#[test]
fn a_relocatable_venv_of_uv_that_has_been_moved() {
    row(
        Answer::Known,
        |place| {
            let venv = uv_venv(place, &["--relocatable"]);
            fs::rename(&venv.0, place.path("moved")).unwrap();
            place.launcher_is(Venv(place.path("moved")).pcluster());
        },
        |place| link_packages(Packages::Broken, &Venv(place.path("moved")).site()),
    );
}

#[test]
fn pipx() {
    row(
        Answer::Known,
        |place| {
            // pipx installs all requirements from an index, and this test has no index. So the test copies
            // what pipx installed when scripts/environments ran it.
            let made = Environment::named("launchers/pipx").directory.join("pipx");
            let copied =
                Command::new(on_this_machine("cp")).arg("-al").args([made, place.path("pipx")]).status();
            assert!(copied.unwrap().success());
            let script = pipx_venv(place).pcluster();
            let text = fs::read_to_string(&script).unwrap();
            let (_, body) = text.split_once('\n').unwrap();
            // The script is a hard link to the original script, so it is removed first: writing to it would
            // change the original too.
            fs::remove_file(&script).unwrap();
            write_script(&script, format!("#!{}\n{body}", pipx_venv(place).python().display()));
            symlink(&script, place.path("bin/pcluster")).unwrap();
            spy_in(&pipx_venv(place).site());
        },
        |place| {
            let site = pipx_venv(place).site();
            for entry in fs::read_dir(&site).unwrap().flatten() {
                if entry.file_name().to_string_lossy().starts_with("aws_cdk") {
                    fs::remove_dir_all(entry.path()).unwrap();
                }
            }
            link_cdk(Packages::Broken, &site);
        },
    );
}

fn pipx_venv(place: &Place) -> Venv {
    Venv(place.path("pipx/venvs/aws-parallelcluster"))
}

#[test]
fn uv_tool() {
    row(
        Answer::Known,
        |place| {
            // uv does not install the requirements: they are excluded here, and linked below.
            let site = Packages::Good.environment().site_packages();
            let names = fs::read_dir(site).unwrap().flatten().filter_map(|entry| {
                let name = entry.file_name().into_string().unwrap();
                let (name, _) = name.strip_suffix(".dist-info")?.rsplit_once('-')?;
                (name != "aws_parallelcluster").then(|| format!("{name}\n"))
            });
            let names: String = names.collect();
            write(&place.path("excludes"), names);
            let (base, wheel, excludes) = (base(), wheel(), place.path("excludes"));
            let words: [&OsStr; 7] = [
                "tool".as_ref(),
                "install".as_ref(),
                "--python".as_ref(),
                base.as_ref(),
                "--excludes".as_ref(),
                excludes.as_ref(),
                wheel.as_ref(),
            ];
            place.tool(
                &tools().join("bin/uv"),
                &words,
                &[("UV_TOOL_DIR", &place.path("tools")), ("UV_TOOL_BIN_DIR", &place.path("bin"))],
            );
            link_packages(Packages::Good, &Venv(place.path("tools/aws-parallelcluster")).site());
        },
        |place| link_packages(Packages::Broken, &Venv(place.path("tools/aws-parallelcluster")).site()),
    );
}

#[test]
fn pip_install_user() {
    row(
        Answer::Known,
        |place| {
            let user = Venv(place.path("user"));
            place.pip(
                &base(),
                &["--user".as_ref(), "--no-warn-script-location".as_ref(), wheel().as_os_str()],
                &[("PYTHONUSERBASE", &user.0), ("PIP_BREAK_SYSTEM_PACKAGES", Path::new("1"))],
            );
            place.sandbox.set("PYTHONUSERBASE", user.0.clone());
            link_packages(Packages::Good, &user.site());
            place.launcher_is(user.pcluster());
        },
        |place| link_packages(Packages::Broken, &Venv(place.path("user")).site()),
    );
}

/// A Python with its own prefix, and with pcluster in its site directory.
fn own_python(place: &Place, name: &str) -> Venv {
    let base = base();
    let prefix =
        prefix_of(&base, &base.parent().unwrap().parent().unwrap().join(library()), &place.path(name));
    place.pip(&prefix.python(), &[wheel().as_os_str()], &[]);
    link_packages(Packages::Good, &prefix.site());
    prefix
}

#[test]
fn a_user_site_that_appears() {
    row(
        Answer::Known,
        |place| {
            let prefix = own_python(place, "python");
            place.launcher_is(prefix.pcluster());
        },
        // Has the effect of `pip install --user` of the broken CDK.
        |place| link_cdk(Packages::Broken, &place.path("home/.local").join(library()).join("site-packages")),
    );
}

#[test]
#[ignore = "long"]
fn a_pth_target_that_appears() {
    row(
        Answer::Known,
        |place| {
            let venv = place.venv_by_pip("venv", Packages::Good);
            for entry in fs::read_dir(venv.site()).unwrap().flatten() {
                if entry.file_name().to_string_lossy().starts_with("aws_cdk") {
                    fs::remove_file(entry.path()).unwrap();
                }
            }
            link_cdk(Packages::Good, &place.path("late"));
            let targets = format!("{}\n{}\n", place.path("early").display(), place.path("late").display());
            write(&venv.site().join("shared.pth"), targets);
            place.launcher_is(venv.pcluster());
        },
        |place| link_cdk(Packages::Broken, &place.path("early")),
    );
}

#[test]
fn a_venv_with_the_site_of_its_base() {
    row(
        Answer::Known,
        |place| {
            let base = own_python(place, "python");
            let venv = place.venv("venv", &base.python(), &["--system-site-packages"]);
            place.pip(&venv.python(), &["--ignore-installed".as_ref(), wheel().as_os_str()], &[]);
            place.launcher_is(venv.pcluster());
        },
        |place| link_packages(Packages::Broken, &Venv(place.path("python")).site()),
    );
}

// --- distributions of Python ----------------------------------------------------------

/// `head`, as conda's core/portability.py writes it, and after it the `python_entry_point_template` of
/// conda's gateways/disk/create.py.
fn conda_script(head: &str) -> String {
    format!(
        "{head}# -*- coding: utf-8 -*-\nimport re\nimport sys\n\nfrom pcluster.cli.entrypoint import main\n\n\
         if __name__ == '__main__':\n    sys.argv[0] = re.sub(r'(-script\\.pyw?|\\.exe)?$', '', sys.argv[0])\n    \
         sys.exit(main())\n"
    )
}

fn conda_environment(place: &mut Place, name: &str, head: impl FnOnce(&Path) -> String) {
    let prefix = own_python(place, name);
    write(&prefix.0.join("conda-meta/history"), "");
    let record = "{\"name\": \"aws-parallelcluster\", \"version\": \"3.1.3\", \"noarch\": \"python\"}\n";
    write(&prefix.0.join("conda-meta/aws-parallelcluster-3.1.3-pyhd8ed1ab_0.json"), record);
    write(&prefix.site().join("aws_parallelcluster-3.1.3.dist-info/INSTALLER"), "conda\n");
    write_script(&prefix.pcluster(), conda_script(&head(&prefix.0.join("bin/python3.9"))));
    place.launcher_is(prefix.pcluster());
}

#[test]
fn conda() {
    row(
        Answer::Known,
        |place| conda_environment(place, "conda", |python| format!("#!{}\n", python.display())),
        |place| link_packages(Packages::Broken, &Venv(place.path("conda")).site()),
    );
}

#[test]
#[ignore = "long"]
fn conda_in_a_path_with_a_space() {
    row(
        Answer::Known,
        |place| {
            conda_environment(place, "a conda", |python| {
                format!("#!/bin/sh\n'''exec' \"{}\" \"$0\" \"$@\" #'''\n", python.display())
            });
        },
        |place| link_packages(Packages::Broken, &Venv(place.path("a conda")).site()),
    );
}

/// Each package has its own prefix, and PYTHONPATH is set by an environment module (`module load`). The
/// launcher's first line starts the program sbang. sbang then runs the command in the launcher's second line,
/// which is the `#!` line that pip wrote.
#[test]
fn spack() {
    row(
        Answer::Known,
        |place| {
            let base = base();
            let library_there = base.parent().unwrap().parent().unwrap().join(library());
            let python = prefix_of(&base, &library_there, &place.path("opt/python-3.9"));
            let package = Venv(place.path("opt/py-aws-parallelcluster-3.1.3"));
            place.pip(&python.python(), &["--prefix".as_ref(), package.0.as_ref(), wheel().as_ref()], &[]);
            let required = place.path("opt/view");
            link_packages(Packages::Good, &required);
            let sbang = place.path("opt/bin/sbang");
            write_script(
                &sbang,
                "#!/bin/sh\nscript=$1\n{ read -r first; read -r second; } <\"$script\"\nexec ${second#??} \"$@\"\n",
            );
            let text = fs::read_to_string(package.pcluster()).unwrap();
            write_script(&package.pcluster(), format!("#!/bin/sh {}\n{text}", sbang.display()));
            place.spy_by_python_path(&[place.path("opt/py-aws-cdk"), package.site(), required]);
            place.launcher_is(package.pcluster());
        },
        |place| link_cdk(Packages::Broken, &place.path("opt/py-aws-cdk")),
    );
}

/// Runs only if the machine has Debian's Python, whose site module differs from upstream's.
#[test]
#[expect(clippy::print_stdout, reason = "a test that does not run says so")]
fn debian() {
    const ASK: &str = "import os, sys, sysconfig, site
print(os.path.realpath(sys.executable))
print(sysconfig.get_path('stdlib'))
print(any('dist-packages' in directory for directory in site.getsitepackages()))";
    let asked = Command::new("/usr/bin/python3").args(["-I", "-c", ASK]).output();
    let answer = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let [python, library, "True"] = answer.lines().collect::<Vec<_>>()[..] else {
        println!("not tested: /usr/bin/python3 is not Debian's");
        return;
    };
    let version = Path::new(library).file_name().unwrap();
    row(
        Answer::Known,
        |place| {
            let prefix = prefix_of(Path::new(python), Path::new(library), &place.path("usr"));
            link_all(Packages::Good, &prefix.0.join("lib/python3/dist-packages"));
            // The Python package `installer` writes this script with double quotes. Debian's dh_python3 then
            // replaces the script's `#!` line.
            let text = console_script(&format!("#!{}\n", prefix.0.join("bin/python3").display()));
            write_script(&prefix.pcluster(), text.replace('\'', "\""));
            place.launcher_is(prefix.pcluster());
        },
        // Debian's pip installs into this directory, which comes first on `sys.path`.
        |place| {
            let local = place.path("usr/local/lib").join(version).join("dist-packages");
            link_cdk(Packages::Broken, &local);
        },
    );
}

// --- editable -------------------------------------------------------------------------

/// A checkout of pcluster, made from its wheel.
fn checkout(place: &Place, cdk: &str) -> PathBuf {
    let directory = place.path("checkout");
    let (python, wheel) = (base(), wheel());
    let words: [&OsStr; 5] =
        ["-m".as_ref(), "zipfile".as_ref(), "-e".as_ref(), wheel.as_ref(), directory.as_ref()];
    place.tool(&python, &words, &[]);
    fs::remove_dir_all(directory.join("aws_parallelcluster-3.1.3.dist-info")).unwrap();
    require(&directory, cdk);
    directory
}

fn require(checkout: &Path, cdk: &str) {
    let setup = format!(
        "from setuptools import find_packages, setup\n\nsetup(\n    name=\"aws-parallelcluster\",\n    \
         version=\"3.1.3\",\n    packages=find_packages(),\n    include_package_data=True,\n    \
         install_requires=[\"aws-cdk.aws-imagebuilder{cdk}\"],\n    \
         entry_points={{\"console_scripts\": [\"pcluster = pcluster.cli.entrypoint:main\"]}},\n)\n"
    );
    write(&checkout.join("setup.py"), setup);
}

/// Runs `setup.py develop` with setuptools 69, in a venv with `packages`. setup.py requires a CDK version in
/// the range `cdk`. An empty `cdk` allows every version.
fn develop(place: &Place, packages: Packages, cdk: &str) {
    let venv = Venv(place.path("venv"));
    link_packages(packages, &venv.site());
    require(&place.path("checkout"), cdk);
    let script = place.path("checkout/setup.py");
    // setup.py is run from the checkout, because setuptools writes its metadata into the current directory.
    let run = "import os, runpy, sys; os.chdir(os.path.dirname(sys.argv[1])); sys.argv = sys.argv[1:]; \
               sys.path.insert(0, os.getcwd()); runpy.run_path(sys.argv[0], run_name='__main__')";
    let words = [
        "-c".as_ref(),
        run.as_ref(),
        script.as_os_str(),
        "-q".as_ref(),
        "develop".as_ref(),
        "--no-deps".as_ref(),
    ];
    place.tool(&venv.python(), &words, &[]);
}

#[test]
fn editable_by_setuptools_develop() {
    row(
        Answer::Known,
        |place| {
            let venv = place.venv("venv", &base(), &[]);
            checkout(place, "");
            develop(place, Packages::Good, "");
            let text = fs::read_to_string(venv.pcluster()).unwrap();
            assert!(text.contains("\n# EASY-INSTALL-ENTRY-SCRIPT: 'aws-parallelcluster',"), "{text}");
            place.launcher_is(venv.pcluster());
        },
        |place| develop(place, Packages::Broken, "<1.154"),
    );
}

fn pep_660(place: &Place, packages: Packages, cdk: &str) {
    let venv = Venv(place.path("venv"));
    link_packages(packages, &venv.site());
    // setuptools needs the package `wheel` to build wheels.
    for entry in fs::read_dir(Venv(tools()).site()).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("wheel") {
            symlink(entry.path(), venv.site().join(entry.file_name())).unwrap();
        }
    }
    require(&place.path("checkout"), cdk);
    let checkout = place.path("checkout");
    place.pip(
        &venv.python(),
        &["--no-build-isolation".as_ref(), "--use-pep517".as_ref(), "-e".as_ref(), checkout.as_ref()],
        &[],
    );
}

#[test]
fn editable_by_pep_660() {
    row(
        Answer::Known,
        |place| {
            let venv = place.venv("venv", &base(), &[]);
            checkout(place, "");
            pep_660(place, Packages::Good, "");
            let finder = venv.site().join("__editable___aws_parallelcluster_3_1_3_finder.py");
            assert!(finder.is_file(), "setuptools wrote no finder");
            place.launcher_is(venv.pcluster());
        },
        |place| pep_660(place, Packages::Broken, "<1.154"),
    );
}

// --- environments in another place ----------------------------------------------------

#[test]
fn a_moved_venv_whose_old_place_has_another() {
    row(
        Answer::Known,
        |place| {
            let venv = place.venv_by_pip("venv", Packages::Broken);
            fs::rename(&venv.0, place.path("moved")).unwrap();
            place.venv_by_pip("venv", Packages::Good);
            place.launcher_is(Venv(place.path("moved")).pcluster());
        },
        |place| link_packages(Packages::Broken, &Venv(place.path("venv")).site()),
    );
}

#[test]
#[ignore = "long"]
fn a_moved_venv_whose_old_place_is_gone() {
    let mut place = Place::new();
    let venv = place.venv_by_pip("venv", Packages::Good);
    fs::rename(&venv.0, place.path("moved")).unwrap();
    place.launcher_is(Venv(place.path("moved")).pcluster());
    place.cannot_start();
}

#[test]
#[ignore = "long"]
fn a_link_to_a_venv() {
    row(
        Answer::Known,
        |place| {
            let venv = place.venv_by_pip("venv", Packages::Good);
            symlink(&venv.0, place.path("linked")).unwrap();
            place.launcher_is(Venv(place.path("linked")).pcluster());
        },
        |place| {
            // The script's `#!` line names the venv's own path, not the path of the link.
            link_packages(Packages::Broken, &Venv(place.path("venv")).site());
        },
    );
}

#[test]
fn a_link_to_a_launcher() {
    row(
        Answer::Known,
        |place| {
            let venv = place.venv_by_pip("venv", Packages::Good);
            place.venv_by_pip("other", Packages::Broken);
            symlink(venv.pcluster(), place.path("bin/pcluster")).unwrap();
        },
        |place| {
            fs::remove_file(place.path("bin/pcluster")).unwrap();
            symlink(Venv(place.path("other")).pcluster(), place.path("bin/pcluster")).unwrap();
        },
    );
}

#[test]
fn env_and_a_python_that_appears_on_path() {
    row(
        Answer::Known,
        |place| {
            let venv = place.venv_by_pip("venv", Packages::Good);
            place.venv_by_pip("other", Packages::Broken);
            write_script(&place.path("bin/pcluster"), console_script("#!/usr/bin/env python3\n"));
            place.sandbox.put_on_path("/nowhere");
            let path = [
                place.path("shim"),
                place.path("bin"),
                venv.0.join("bin"),
                place.path("node"),
                "/usr/bin".into(),
                "/bin".into(),
            ];
            place.sandbox.set("PATH", std::env::join_paths(path).unwrap());
        },
        |place| {
            let other = Venv(place.path("other")).python();
            write_script(&place.path("bin/python3"), format!("#!/bin/sh\nexec {} \"$@\"\n", quoted(&other)));
        },
    );
}

// --- wrappers -------------------------------------------------------------------------

/// A row with a wrapper script. `make` writes a script that starts the pcluster of a good environment, and
/// `change` replaces that script with a script that starts the pcluster of a broken environment.
#[track_caller]
fn wrapper(answer: Answer, text: impl Fn(&Venv) -> String) {
    row(
        answer,
        |place| {
            let good = place.venv_by_pip("good", Packages::Good);
            place.venv_by_pip("broken", Packages::Broken);
            write_script(&place.path("bin/pcluster"), text(&good));
        },
        |place| write_script(&place.path("bin/pcluster"), text(&Venv(place.path("broken")))),
    );
}

#[test]
#[ignore = "long"]
fn a_shell_script_that_execs() {
    wrapper(Answer::Known, |venv| {
        format!("#!/bin/sh\nexport WRAPPED=1\nexec {} \"$@\"\n", quoted(&venv.pcluster()))
    });
}

#[test]
fn a_shell_script_that_execs_an_environment_that_changes() {
    row(
        Answer::Known,
        |place| {
            let venv = place.venv_by_pip("venv", Packages::Good);
            let text = format!("#!/bin/sh\nexec {} \"$@\"\n", quoted(&venv.pcluster()));
            write_script(&place.path("bin/pcluster"), text);
        },
        |place| link_packages(Packages::Broken, &Venv(place.path("venv")).site()),
    );
}

#[test]
#[ignore = "long"]
fn exec_under_another_name() {
    wrapper(Answer::Known, |venv| {
        format!("#!/usr/bin/env bash\nexec -a pcluster {} \"$@\"\n", quoted(&venv.pcluster()))
    });
}

/// If Python is started under another name, it looks for its executable under that name on PATH. Here it
/// finds the shim, so `sys.executable` is the shim.
#[test]
#[ignore = "long"]
fn exec_of_a_python_under_another_name() {
    let mut place = Place::new();
    let venv = place.venv_by_pip("venv", Packages::Good);
    place.spy_by_python_path(&[venv.site()]);
    let (python, launcher) = (quoted(&base()), quoted(&venv.pcluster()));
    let text = format!("#!/usr/bin/env bash\nexec -a pcluster {python} {launcher} \"$@\"\n");
    write_script(&place.path("bin/pcluster"), text);
    place.truth(Packages::Good);
    place.goes_on(Packages::Good, 0);
    link_packages(Packages::Broken, &venv.site());
    place.truth(Packages::Broken);
    place.is_guarded(Packages::Broken, Answer::Known);
}

#[test]
#[ignore = "long"]
fn a_python_script_that_execs() {
    let python = base();
    wrapper(Answer::Known, |venv| {
        format!(
            "#!{}\nimport os\nimport sys\n\nos.execv(\"{program}\", [\"{program}\"] + sys.argv[1:])\n",
            python.display(),
            program = venv.pcluster().display()
        )
    });
}

#[test]
fn a_python_script_that_execs_an_environment_that_is_swapped() {
    row(
        Answer::Known,
        |place| {
            place.venv_by_pip("venv", Packages::Broken);
            fs::rename(place.path("venv"), place.path("next")).unwrap();
            let venv = place.venv_by_pip("venv", Packages::Good);
            let text = format!(
                "#!{}\nimport os\nimport sys\n\nos.execv(\"{program}\", [\"{program}\"] + sys.argv[1:])\n",
                base().display(),
                program = venv.pcluster().display()
            );
            write_script(&place.path("bin/pcluster"), text);
        },
        |place| {
            fs::rename(place.path("venv"), place.path("last")).unwrap();
            fs::rename(place.path("next"), place.path("venv")).unwrap();
        },
    );
}

#[test]
#[ignore = "long"]
fn a_python_script_that_waits_for_a_child() {
    let python = base();
    wrapper(Answer::Known, |venv| {
        format!(
            "#!{}\nimport subprocess\nimport sys\n\nsys.exit(subprocess.call([\"{}\"] + sys.argv[1:]))\n",
            python.display(),
            venv.pcluster().display()
        )
    });
}

#[test]
fn a_python_script_that_adds_a_site_directory() {
    let python = base();
    wrapper(Answer::Known, |venv| {
        let head = format!(
            "#!{}\nimport site\n\nsite.addsitedir(\"{}\")\n",
            python.display(),
            venv.site().display()
        );
        console_script(&head)
    });
}

/// The script's `#!` line names the environment's Python, and its code adds another directory to `sys.path`.
#[test]
fn a_site_directory_that_appears() {
    row(
        Answer::Known,
        |place| {
            let venv = place.venv_by_pip("venv", Packages::Good);
            let head = format!(
                "#!{}\nimport sys\n\nsys.path.insert(0, \"{}\")\n",
                venv.python().display(),
                place.path("early").display()
            );
            write_script(&place.path("bin/pcluster"), console_script(&head));
        },
        |place| link_cdk(Packages::Broken, &place.path("early")),
    );
}

/// The output of nixpkgs' wrapPythonPrograms: makeWrapper's script, and the console script
/// with a preamble.
#[test]
fn nix() {
    row(
        Answer::Known,
        |place| {
            let venv = place.venv_by_pip("store", Packages::Good);
            let hidden = venv.0.join("bin/.pcluster-wrapped");
            let preamble = format!(
                "import sys;import site;import functools;sys.argv[0] = '{}';functools.reduce(lambda k, p: \
                 site.addsitedir(p, k), ['{}'], site._init_pathinfo());\n",
                venv.pcluster().display(),
                venv.site().display()
            );
            let head = format!("#!{}\n# -*- coding: utf-8 -*-\n{preamble}", base().display());
            write_script(&hidden, console_script("").replacen("# -*- coding: utf-8 -*-\n", &head, 1));
            let text = format!(
                "#! /usr/bin/env -S bash -e\nexport PATH='{}'${{PATH:+':'}}$PATH\nexport PYTHONNOUSERSITE='true'\n\
                 exec -a \"$0\" \"{}\"  \"$@\"\n",
                base().parent().unwrap().display(),
                hidden.display()
            );
            write_script(&venv.pcluster(), text);
            place.launcher_is(venv.pcluster());
        },
        |place| link_packages(Packages::Broken, &Venv(place.path("store")).site()),
    );
}

/// The launcher that pyenv writes, and a script that does what `pyenv exec` does. The row's `change` selects
/// the version `broken` in place of `good`.
#[test]
fn pyenv() {
    row(
        Answer::Known,
        |place| {
            place.venv_by_pip("versions/good", Packages::Good);
            place.venv_by_pip("versions/broken", Packages::Broken);
            write(&place.path("version"), "good\n");
            let root = place.path("").display().to_string();
            let root = root.trim_end_matches('/');
            write_script(
                &place.path("libexec/pyenv"),
                "#!/usr/bin/env bash\nset -e\nshift\nread -r version <\"$PYENV_ROOT/version\"\n\
                 export PYENV_VERSION=$version PATH=\"$PYENV_ROOT/versions/$version/bin:$PATH\"\nprogram=$1\nshift\n\
                 exec \"$PYENV_ROOT/versions/$version/bin/$program\" \"$@\"\n",
            );
            write_script(
                &place.path("shims/pcluster"),
                format!(
                    "#!/usr/bin/env bash\nset -e\n[ -n \"$PYENV_DEBUG\" ] && set -x\n\nprogram=\"${{0##*/}}\"\n\n\
                     export PYENV_ROOT=\"{root}\"\nexec \"{root}/libexec/pyenv\" exec \"$program\" \"$@\"\n"
                ),
            );
            place.launcher_is(place.path("shims/pcluster"));
        },
        |place| write(&place.path("version"), "broken\n"),
    );
}

#[test]
fn a_wrapper_that_prepends_to_pythonpath() {
    row(
        Answer::Known,
        |place| {
            let venv = place.venv_by_pip("venv", Packages::Good);
            let text = format!(
                "#!/bin/sh\nPYTHONPATH={}${{PYTHONPATH:+:$PYTHONPATH}}\nexport PYTHONPATH\nexec {} \"$@\"\n",
                quoted(&place.path("early")),
                quoted(&venv.pcluster())
            );
            write_script(&place.path("bin/pcluster"), text);
        },
        |place| link_cdk(Packages::Broken, &place.path("early")),
    );
}

#[test]
fn a_wrapper_that_prepends_a_sitecustomize() {
    row(
        Answer::Said,
        |place| {
            let venv = place.venv_by_pip("venv", Packages::Good);
            customize(&place.path("early"));
            let text = format!(
                "#!/bin/sh\nPYTHONPATH={}${{PYTHONPATH:+:$PYTHONPATH}}\nexport PYTHONPATH\nexec {} \"$@\"\n",
                quoted(&place.path("early")),
                quoted(&venv.pcluster())
            );
            write_script(&place.path("bin/pcluster"), text);
        },
        |place| link_cdk(Packages::Broken, &place.path("early")),
    );
}

#[test]
fn a_wrapper_that_replaces_pythonpath() {
    row(
        Answer::Said,
        |place| {
            let venv = place.venv_by_pip("venv", Packages::Good);
            let text = format!(
                "#!/bin/sh\nPYTHONPATH={} exec {} \"$@\"\n",
                quoted(&place.path("early")),
                quoted(&venv.pcluster())
            );
            write_script(&place.path("bin/pcluster"), text);
        },
        |place| link_cdk(Packages::Broken, &place.path("early")),
    );
}

#[test]
fn a_pythonpath_directory_that_appears() {
    row(
        Answer::Known,
        |place| {
            let venv = place.venv_by_pip("venv", Packages::Good);
            place.sandbox.set("PYTHONPATH", place.path("early"));
            place.launcher_is(venv.pcluster());
        },
        |place| link_cdk(Packages::Broken, &place.path("early")),
    );
}

// --- archives -------------------------------------------------------------------------

/// An archive made by `python -m zipapp`. Its `#!` line names an environment's Python.
#[test]
fn zipapp() {
    wrapped_in_a_zip(Answer::Known, |place, venv| {
        let content = place.path("zipapp");
        let _ = fs::remove_dir_all(&content);
        write(
            &content.join("__main__.py"),
            "import sys\nfrom pcluster.cli.entrypoint import main\nsys.exit(main())\n",
        );
        let (interpreter, file) = (venv.python(), place.path("bin/pcluster"));
        let words: [&OsStr; 7] = [
            "-m".as_ref(),
            "zipapp".as_ref(),
            content.as_ref(),
            "-p".as_ref(),
            interpreter.as_ref(),
            "-o".as_ref(),
            file.as_ref(),
        ];
        place.tool(&base(), &words, &[]);
    });
}

/// An archive made by shiv, with its own site directory. A `.pth` file in that directory adds the packages of
/// an environment.
#[test]
fn shiv() {
    wrapped_in_a_zip(Answer::Known, |place, venv| {
        let site = place.path("for-shiv");
        write(&site.join("required.pth"), format!("import site; site.addsitedir({:?})\n", venv.site()));
        let (base, wheel, file) = (base(), wheel(), place.path("bin/pcluster"));
        let words: [&OsStr; 11] = [
            "--console-script".as_ref(),
            "pcluster".as_ref(),
            "--site-packages".as_ref(),
            site.as_ref(),
            "--python".as_ref(),
            base.as_ref(),
            "--output-file".as_ref(),
            file.as_ref(),
            "--no-deps".as_ref(),
            "--no-index".as_ref(),
            wheel.as_ref(),
        ];
        place.tool(&tools().join("bin/shiv"), &words, &[]);
    });
}

fn wrapped_in_a_zip(answer: Answer, zip: impl Fn(&Place, &Venv)) {
    row(
        answer,
        |place| {
            let good = place.venv_by_pip("good", Packages::Good);
            place.venv_by_pip("broken", Packages::Broken);
            zip(place, &good);
        },
        |place| zip(place, &Venv(place.path("broken"))),
    );
}

/// pex starts Python a second time, without PYTHONPATH.
#[test]
fn pex() {
    row(
        Answer::Said,
        |place| {
            let required = place.path("required");
            link_packages(Packages::Good, &required);
            // Python reads no .pth files in this directory, so no .pth file can start the spy (`SPY` in
            // place.rs). Instead, botocore starts the spy, because pcluster imports botocore.
            let real = Packages::Good.environment().site_packages().join("botocore");
            fs::remove_file(required.join("botocore")).unwrap();
            let code = format!(
                "import table_spy\n__path__, __file__ = [{real:?}], {:?}\nexec(open(__file__).read())\n",
                real.join("__init__.py")
            );
            write(&required.join("botocore/__init__.py"), code);
            place.sandbox.set("PEX_EXTRA_SYS_PATH", required);
            fs::copy(tools().join("pcluster.pex"), place.path("bin/pcluster")).unwrap();
        },
        |place| link_packages(Packages::Broken, &place.path("required")),
    );
}
