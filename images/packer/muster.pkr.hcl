# A golden image from a distribution's own cloud image: Muster and k3s in it, the host prepared, sealed, verified.
#
#   packer init images/packer && packer build -var muster=target/release/muster -var k3s_dir=./k3s -only=amazon-ebs.muster images/packer
#
# One script does the work for every builder: provision.sh beside this file. See docs/images.md for what it has been tried with.

packer {
  required_version = ">= 1.9.0"
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.3.0"
    }
    googlecompute = {
      source  = "github.com/hashicorp/googlecompute"
      version = ">= 1.1.0"
    }
    azure = {
      source  = "github.com/hashicorp/azure"
      version = ">= 2.0.0"
    }
    qemu = {
      source  = "github.com/hashicorp/qemu"
      version = ">= 1.1.0"
    }
    sshkey = {
      source  = "github.com/ivoronin/sshkey"
      version = ">= 1.1.0"
    }
  }
}

variable "muster" {
  type        = string
  description = "The agent's static binary, for the image's architecture."
}

variable "k3s_dir" {
  type        = string
  description = "A k3s release to bake in: k3s (k3s-arm64) and its sha256sum-*.txt. Checked in the image."
}

variable "version" {
  type        = string
  default     = "0.1.0"
  description = "Goes into the image's name."
}

variable "aws_region" {
  type    = string
  default = "eu-central-1"
}

variable "gcp_project" {
  type    = string
  default = ""
}

variable "gcp_zone" {
  type    = string
  default = "europe-west3-a"
}

variable "azure_subscription" {
  type    = string
  default = ""
}

variable "azure_resource_group" {
  type    = string
  default = ""
}

variable "qemu_image" {
  type        = string
  default     = "https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2"
  description = "A cloud image with cloud-init, for builds without a cloud."
}

variable "qemu_image_checksum" {
  type    = string
  default = "file:https://cloud.debian.org/images/cloud/bookworm/latest/SHA512SUMS"
}

locals {
  name = "muster-${replace(var.version, ".", "-")}-${formatdate("YYYYMMDDhhmm", timestamp())}"
}

data "sshkey" "build" {}

source "amazon-ebs" "muster" {
  region        = var.aws_region
  instance_type = "t3.small"
  ssh_username  = "admin"
  ami_name      = local.name
  # An image is as open as its snapshot.
  encrypt_boot = true
  imds_support = "v2.0"
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
  source_ami_filter {
    filters = {
      name                = "debian-12-amd64-*"
      virtualization-type = "hvm"
      root-device-type    = "ebs"
    }
    # Debian's own account.
    owners      = ["136693071363"]
    most_recent = true
  }
}

source "googlecompute" "muster" {
  project_id          = var.gcp_project
  zone                = var.gcp_zone
  source_image_family = "debian-12"
  image_name          = local.name
  image_family        = "muster"
  ssh_username        = "packer"
}

source "azure-arm" "muster" {
  subscription_id                   = var.azure_subscription
  managed_image_resource_group_name = var.azure_resource_group
  managed_image_name                = local.name
  build_resource_group_name         = var.azure_resource_group
  use_azure_cli_auth                = true
  os_type                           = "Linux"
  image_publisher                   = "Debian"
  image_offer                       = "debian-12"
  image_sku                         = "12-gen2"
  vm_size                           = "Standard_B2s"
}

source "qemu" "muster" {
  iso_url          = var.qemu_image
  iso_checksum     = var.qemu_image_checksum
  disk_image       = true
  format           = "qcow2"
  output_directory = "output-${local.name}"
  vm_name          = "${local.name}.qcow2"
  memory           = 2048
  headless         = true
  # Root, by a key that is packer's own and made for this build: sealing takes it out again, and no account is left behind.
  ssh_username = "root"
  ssh_timeout  = "10m"
  cd_label     = "cidata"
  cd_content = {
    "meta-data" = "instance-id: packer\nlocal-hostname: packer\n"
    "user-data" = <<-USERDATA
      #cloud-config
      users: []
      disable_root: false
      ssh_authorized_keys: ["${data.sshkey.build.public_key}"]
    USERDATA
  }
  ssh_private_key_file = data.sshkey.build.private_key_path
  # Sealing has removed what a shutdown over SSH would need a second time.
  shutdown_command = "systemctl poweroff"
}

build {
  sources = ["source.amazon-ebs.muster", "source.googlecompute.muster", "source.azure-arm.muster", "source.qemu.muster"]

  provisioner "file" {
    source      = var.muster
    destination = "/var/tmp/muster"
  }
  provisioner "file" {
    source      = "${path.root}/../systemd/muster.service"
    destination = "/var/tmp/muster.service"
  }
  provisioner "file" {
    source      = "${path.root}/../systemd/muster-leave.service"
    destination = "/var/tmp/muster-leave.service"
  }
  provisioner "file" {
    source      = "${var.k3s_dir}/"
    destination = "/var/tmp/k3s"
  }
  # The user-data for AWS fetches the token with it.
  provisioner "shell" {
    only = ["amazon-ebs.muster"]
    inline = [
      "sudo apt-get -qq update",
      "sudo DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install awscli",
      "sudo apt-get clean",
    ]
  }
  provisioner "shell" {
    script = "${path.root}/provision.sh"
    # As root; the script removes itself with the rest of what packer left.
    execute_command   = "sudo sh {{ .Path }}"
    skip_clean        = true
    expect_disconnect = false
  }
}
