//! The texts that installers write into console scripts, below the lines that start Python.

/// The known texts. Here, each `"` is replaced with `'` and each tab with four spaces, and empty lines and
/// the encoding comment are left out. `*` matches a requirement such as `aws-parallelcluster==3.1.3`.
pub const BODIES: [&str; 10] = [
    // distlib 0.2.9 to 0.3.9; pip 19.3 to 25.1, which includes distlib; uv before 0.6, pypa/installer, flit
    r"import re
import sys
from pcluster.cli.entrypoint import main
if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\.pyw|\.exe)?$', '', sys.argv[0])
    sys.exit(main())",
    // pip before 19.3, conda, rattler
    r"import re
import sys
from pcluster.cli.entrypoint import main
if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\.pyw?|\.exe)?$', '', sys.argv[0])
    sys.exit(main())",
    // distlib 0.4
    r"import re
import sys
if __name__ == '__main__':
    from pcluster.cli.entrypoint import main
    sys.argv[0] = re.sub(r'(-script\.pyw|\.exe)?$', '', sys.argv[0])
    sys.exit(main())",
    // conda before 4.4
    r"if __name__ == '__main__':
    from sys import exit
    from pcluster.cli.entrypoint import main
    exit(main())",
    // pip 25.2 and 25.3
    r"import sys
from pcluster.cli.entrypoint import main
if __name__ == '__main__':
    if sys.argv[0].endswith('.exe'):
        sys.argv[0] = sys.argv[0][:-4]
    sys.exit(main())",
    // pip from 26.0 on
    r"import sys
from pcluster.cli.entrypoint import main
if __name__ == '__main__':
    sys.argv[0] = sys.argv[0].removesuffix('.exe')
    sys.exit(main())",
    // uv from 0.6 on
    r"import sys
from pcluster.cli.entrypoint import main
if __name__ == '__main__':
    if sys.argv[0].endswith('-script.pyw'):
        sys.argv[0] = sys.argv[0][:-11]
    elif sys.argv[0].endswith('.exe'):
        sys.argv[0] = sys.argv[0][:-4]
    sys.exit(main())",
    // poetry
    r"import sys
from pcluster.cli.entrypoint import main
if __name__ == '__main__':
    sys.exit(main())",
    // setuptools before 47, for `setup.py develop` and for eggs
    r"# EASY-INSTALL-ENTRY-SCRIPT: '*','console_scripts','pcluster'
__requires__ = '*'
import re
import sys
from pkg_resources import load_entry_point
if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\.pyw?|\.exe)?$', '', sys.argv[0])
    sys.exit(
        load_entry_point('*', 'console_scripts', 'pcluster')()
    )",
    // setuptools from 47 on
    r"# EASY-INSTALL-ENTRY-SCRIPT: '*','console_scripts','pcluster'
import re
import sys
# for compatibility with easy_install; see #2198
__requires__ = '*'
try:
    from importlib.metadata import distribution
except ImportError:
    try:
        from importlib_metadata import distribution
    except ImportError:
        from pkg_resources import load_entry_point
def importlib_load_entry_point(spec, group, name):
    dist_name, _, _ = spec.partition('==')
    matches = (
        entry_point
        for entry_point in distribution(dist_name).entry_points
        if entry_point.group == group and entry_point.name == name
    )
    return next(matches).load()
globals().setdefault('load_entry_point', importlib_load_entry_point)
if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\.pyw?|\.exe)?$', '', sys.argv[0])
    sys.exit(load_entry_point('*', 'console_scripts', 'pcluster')())",
];

/// What [`read_body`] found in a known text.
#[derive(Debug)]
pub struct Body {
    /// The script's `__requires__`, if `pkg_resources` uses that value.
    pub requires: Option<String>,
}

/// Reads the text below the lines that start Python; `None` if it isn't one of [`BODIES`].
pub fn read_body(body: &str) -> Option<Body> {
    let body = body.replace('"', "'").replace('\t', "    ");
    let lines = || body.lines().map(str::trim_end).filter(|line| !line.is_empty() && *line != ENCODING);
    BODIES.iter().find_map(|known| {
        let mut requirement = None;
        let is_known = known.lines().count() == lines().count()
            && known.lines().zip(lines()).all(|(known, line)| is_like(known, line, &mut requirement));
        let acts = known.contains("\nfrom pkg_resources import");
        is_known.then(|| Body { requires: requirement.filter(|_| acts).map(str::to_owned) })
    })
}

pub const ENCODING: &str = "# -*- coding: utf-8 -*-";

/// Whether a line matches a known line. Every `*` of a known text has to match the same requirement:
/// `requirement` is the first one that was found.
fn is_like<'a>(known: &str, line: &'a str, requirement: &mut Option<&'a str>) -> bool {
    let Some((before, after)) = known.split_once('*') else { return known == line };
    let found = line.strip_prefix(before).and_then(|line| line.strip_suffix(after));
    let is_requirement =
        |text: &&str| text.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.+!=".contains(letter));
    found.filter(is_requirement).is_some_and(|found| *requirement.get_or_insert(found) == found)
}
