//! `muster image seal`, `verify`: for whoever builds images.

use super::args::ImageArgs;
use super::{DONE, FAILED, print_json};
use crate::image::{self, Order};

impl ImageArgs {
    fn order(&self, this_machine: bool) -> Order {
        Order {
            root: self.root.clone(),
            keep: self.keep.clone(),
            secret_file: self.secret_file.clone(),
            this_machine,
        }
    }
}

pub(super) fn seal(args: &ImageArgs, this_machine: bool, json: bool) -> anyhow::Result<u8> {
    let sealed = image::seal(&args.order(this_machine))?;
    if json {
        print_json(&sealed)?;
    } else {
        print!("{}", image::render_sealed(&sealed));
    }
    Ok(if sealed.verified.findings.is_empty() { DONE } else { FAILED })
}

pub(super) fn verify(args: &ImageArgs, json: bool) -> anyhow::Result<u8> {
    let verified = image::verify(&args.order(false))?;
    if json {
        print_json(&verified)?;
    } else {
        print!("{}", image::render_verified(&verified));
    }
    Ok(if verified.findings.is_empty() { DONE } else { FAILED })
}
